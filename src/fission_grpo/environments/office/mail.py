"""A mailbox with folders and an address book: it has to be connected, and a folder has to be there."""

from __future__ import annotations

from typing import Any, Literal

from fission_grpo.errors import ToolError


class Mail:
    """Each mail lies in one folder; what is sent is kept, and cannot be taken back."""

    def reset(
        self,
        account: dict[str, str],
        connected: bool,
        folders: list[str],
        mails: list[dict[str, Any]],
        book: dict[str, str],
    ) -> None:
        """Begin.

        Args:
            account: `address` and `key` of the mailbox.
            connected: whether it is already.
            folders: names, the inbox among them.
            mails: each with `id`, `folder`, `sender`, `subject`, `text` and `mark`.
            book: address by the name of a person.
        """
        self.account, self.connected, self.folders, self.mails, self.book = account, connected, folders, mails, book
        self.sent: list[dict[str, Any]] = []

    def connect_mailbox(self, address: str, key: str) -> str:
        """Connect the mailbox.

        Args:
            address: address of the mailbox
            key: its secret key
        """
        if self.connected:
            raise ToolError("the mailbox is connected already")
        if address != self.account["address"]:
            raise ToolError(f"mailbox not found: {address!r}")
        if key != self.account["key"]:
            raise ToolError("access denied: the key is wrong")
        self.connected = True
        return f"connected to {address}"

    def find_address(self, person: str) -> str:
        """Find somebody's mail address in the address book.

        Args:
            person: name of the person
        """
        self._require_connection()
        if person not in self.book:
            raise ToolError(f"{person!r} does not exist in the address book")
        return self.book[person]

    def list_folder(self, folder: str) -> list[dict[str, Any]]:
        """List the mails in a folder.

        Args:
            folder: name of the folder
        """
        self._require_folder(folder)
        shown = ("id", "sender", "subject")
        return [{key: mail[key] for key in shown} for mail in self.mails if mail["folder"] == folder]

    def read_mail(self, mail_id: int) -> dict[str, Any]:
        """Read a mail.

        Args:
            mail_id: number of the mail
        """
        return self._mail(mail_id)

    def find_mails(self, word: str) -> list[int]:
        """Find the numbers of all mails with a word in subject or text.

        Args:
            word: what to look for
        """
        self._require_connection()
        if not word.strip():
            raise ToolError("invalid word: it is empty")
        return [mail["id"] for mail in self.mails if word in f"{mail['subject']} {mail['text']}".split()]

    def send_mail(self, address: str, subject: str, text: str) -> str:
        """Send a new mail.

        Args:
            address: where it goes
            subject: its subject
            text: what it says
        """
        self._require_connection()
        return self._send(address, subject, text)

    def answer_mail(self, mail_id: int, text: str) -> str:
        """Answer a mail.

        Args:
            mail_id: number of the mail
            text: the answer
        """
        mail = self._mail(mail_id)
        return self._send(mail["sender"], f"Re: {mail['subject']}", text)

    def pass_on_mail(self, mail_id: int, address: str) -> str:
        """Pass a mail on to somebody else.

        Args:
            mail_id: number of the mail
            address: where it goes
        """
        mail = self._mail(mail_id)
        return self._send(address, f"Fw: {mail['subject']}", mail["text"])

    def file_mail(self, mail_id: int, folder: str) -> str:
        """Put a mail into another folder.

        Args:
            mail_id: number of the mail
            folder: name of the folder
        """
        mail = self._mail(mail_id)
        self._require_folder(folder)
        if mail["folder"] == folder:
            raise ToolError(f"mail {mail_id} is in {folder} already")
        mail["folder"] = folder
        return f"mail {mail_id} is in {folder} now"

    def make_folder(self, folder: str) -> str:
        """Make a new folder.

        Args:
            folder: name of the folder
        """
        self._require_connection()
        if folder in self.folders:
            raise ToolError(f"a folder {folder!r} exists")
        if not folder.isidentifier():
            raise ToolError(f"invalid folder name {folder!r}: letters and digits only")
        self.folders.append(folder)
        return f"folder {folder} was made"

    def mark_mail(self, mail_id: int, mark: Literal["urgent", "later", "settled"]) -> str:
        """Mark a mail.

        Args:
            mail_id: number of the mail
            mark: what to mark it as
        """
        mail = self._mail(mail_id)
        if mail["mark"] == mark:
            raise ToolError(f"mail {mail_id} is already marked as {mark}")
        mail["mark"] = mark
        return f"mail {mail_id} is marked as {mark}"

    def bin_mail(self, mail_id: int) -> str:
        """Throw a mail away for good.

        Args:
            mail_id: number of the mail
        """
        self.mails.remove(self._mail(mail_id))
        return f"mail {mail_id} is gone"

    def _require_connection(self) -> None:
        if not self.connected:
            raise ToolError("the mailbox is not connected; connect it first")

    def _require_folder(self, folder: str) -> None:
        self._require_connection()
        if folder not in self.folders:
            raise ToolError(f"there is no folder {folder!r}")

    def _mail(self, mail_id: int) -> dict[str, Any]:
        self._require_connection()
        for mail in self.mails:
            if mail["id"] == mail_id:
                return mail
        raise ToolError(f"no such mail: {mail_id}")

    def _send(self, address: str, subject: str, text: str) -> str:
        if "@" not in address:
            raise ToolError(f"invalid address {address!r}: it has no @")
        self.sent.append({"address": address, "subject": subject, "text": text})
        return f"sent to {address}"
