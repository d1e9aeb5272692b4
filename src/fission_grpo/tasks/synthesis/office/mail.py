"""Requests to `Mail`: nobody says whether the mailbox is connected, or whether a folder is there."""

from __future__ import annotations

from random import Random
from typing import Any

from fission_grpo.tasks.synthesis.families import vocabulary
from fission_grpo.tasks.synthesis.families.family import (
    Api,
    Draw,
    InitialState,
    RequestGenerator,
    Setup,
    Wordings,
    call,
    one_call,
)

INBOX = "inbox"


def _initial_state(rng: Random) -> dict[str, Any]:
    own, *people = rng.sample(vocabulary.PEOPLE, 7)
    book = {person: vocabulary.mail_address(rng, person) for person in people}
    folders = [INBOX, *rng.sample(vocabulary.NOUNS, 2)]
    first = rng.randint(10, 900)
    mails = [_mail(rng, first + i, rng.choice(folders), book[person]) for i, person in enumerate(people)]
    account = {"address": vocabulary.mail_address(rng, own), "key": vocabulary.password(rng)}
    return {"account": account, "connected": True, "folders": folders, "mails": mails, "book": book}


def _mail(rng: Random, number: int, folder: str, sender: str) -> dict[str, Any]:
    subject, text = vocabulary.phrase(rng, 1, 2), vocabulary.phrase(rng, 3, 5)
    return {"id": number, "folder": folder, "sender": sender, "subject": subject, "text": text, "mark": ""}


def _connected(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    initial.state["connected"] = not unmet
    slots = initial.state["account"]
    return Draw(slots=slots, calls=(call("connect_mailbox", **slots),) if unmet else ())


def _folder(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    folder = request.slots["folder"]
    if not unmet:
        initial.state["folders"].append(folder)
    return Draw(slots={}, calls=(call("make_folder", folder=folder),) if unmet else ())


CONNECTED = Setup(
    name="connection",
    fixers=("connect_mailbox",),
    arrange=_connected,
    notes=Wordings(
        train=(
            "my mailbox is {address} with the key {key}",
            "connect {address} with key {key} if needed",
            "the address is {address} and the key is {key}",
            "mailbox {address}, key {key}",
            "if the mailbox is not connected, use {address} and {key}",
            "I am {address}, the key is {key}",
        ),
        heldout=("if needed, connect the mailbox {address} with the key {key}", "my address is {address}, key {key}"),
    ),
)

MAIL_FOLDER = Setup(
    name="mail_folder",
    fixers=("make_folder",),
    arrange=_folder,
    notes=Wordings(
        train=(
            "make the folder if it is missing",
            "you may make a new folder",
            "a missing folder can be made",
            "if there is no such folder, make it",
            "I do not know if the folder is there",
            "the folder may have to be made",
        ),
        heldout=(
            "if the folder is missing, make a new folder",
            "I do not know if there is such a folder, you may make it",
        ),
    ),
)


def _take_mail(initial: InitialState) -> dict[str, Any]:
    number = initial.take([mail["id"] for mail in initial.state["mails"]])
    found: dict[str, Any] = next(mail for mail in initial.state["mails"] if mail["id"] == number)
    return found


def _take_person(initial: InitialState) -> tuple[str, str]:
    person = initial.take(sorted(initial.state["book"]))
    return person, initial.state["book"][person]


def _read(initial: InitialState) -> Draw:
    return one_call("read_mail", mail_id=_take_mail(initial)["id"])


def _list(initial: InitialState) -> Draw:
    return one_call("list_folder", folder=initial.rng.choice(initial.state["folders"]))


def _search(initial: InitialState) -> Draw:
    mail = initial.rng.choice(initial.state["mails"])
    return one_call("find_mails", word=initial.rng.choice(mail["text"].split()))


def _send(initial: InitialState) -> Draw:
    _, address = _take_person(initial)
    subject, text = vocabulary.phrase(initial.rng, 1, 2), vocabulary.phrase(initial.rng, 2, 3)
    return one_call("send_mail", address=address, subject=subject, text=text)


def _send_by_name(initial: InitialState) -> Draw:
    person, address = _take_person(initial)
    said = {"subject": vocabulary.phrase(initial.rng, 1, 2), "text": vocabulary.phrase(initial.rng, 2, 3)}
    calls = (call("find_address", person=person), call("send_mail", address=address, **said))
    return Draw(slots={"person": person, **said}, calls=calls)


def _answer(initial: InitialState) -> Draw:
    return one_call("answer_mail", mail_id=_take_mail(initial)["id"], text=vocabulary.phrase(initial.rng, 2, 3))


def _pass_on(initial: InitialState) -> Draw:
    (person, address), number = _take_person(initial), _take_mail(initial)["id"]
    calls = (call("find_address", person=person), call("pass_on_mail", mail_id=number, address=address))
    return Draw(slots={"person": person, "mail_id": number}, calls=calls)


def _file(initial: InitialState) -> Draw:
    number = _take_mail(initial)["id"]
    folder = initial.rng.choice([noun for noun in vocabulary.NOUNS if noun not in initial.state["folders"]])
    return one_call("file_mail", mail_id=number, folder=folder)


def _mark(initial: InitialState) -> Draw:
    mark = initial.rng.choice(("urgent", "later", "settled"))
    return one_call("mark_mail", mail_id=_take_mail(initial)["id"], mark=mark)


def _bin(initial: InitialState) -> Draw:
    return one_call("bin_mail", mail_id=_take_mail(initial)["id"])


MAIL = Api(
    name="Mail",
    initial_state=_initial_state,
    generators=(
        RequestGenerator(
            name="read_mail",
            draw=_read,
            setups=(CONNECTED,),
            wordings=Wordings(
                train=(
                    "read mail {mail_id}",
                    "show me the mail {mail_id}",
                    "what does mail {mail_id} say, read it",
                    "open the mail with number {mail_id}",
                    "tell me what is in mail {mail_id}",
                    "give me the text of mail {mail_id}",
                ),
                heldout=("read me the mail with number {mail_id}", "show the text of mail {mail_id}"),
            ),
        ),
        RequestGenerator(
            name="list_folder",
            draw=_list,
            setups=(CONNECTED,),
            wordings=Wordings(
                train=(
                    "list the mails in {folder}",
                    "what is in the folder {folder}, list it",
                    "show all mails of the folder {folder}",
                    "which mails are in {folder}, show them",
                    "give me a list of the {folder} folder",
                    "look into the folder {folder}",
                ),
                heldout=("list all mails of the {folder} folder", "show me what is in the folder {folder}"),
            ),
        ),
        RequestGenerator(
            name="find_mails",
            draw=_search,
            setups=(CONNECTED,),
            wordings=Wordings(
                train=(
                    "find the mails with the word {word}",
                    "search my mails for {word}",
                    "which mails speak of {word}, find them",
                    "look for {word} in the mails",
                    "search for all mails with {word}",
                    "in which mails is the word {word}, look for it",
                ),
                heldout=("search the mails for the word {word}", "find all mails with {word}"),
            ),
        ),
        RequestGenerator(
            name="send_mail",
            draw=_send,
            setups=(CONNECTED,),
            topic="address",
            wordings=Wordings(
                train=(
                    "send a mail to {address} with subject {subject} and text {text}",
                    "write to {address}, subject {subject}, text {text}",
                    "mail {text} to {address} under the subject {subject}",
                    "to {address}, send {text} with the subject {subject}",
                    "with subject {subject}, write {text} to {address}",
                    "the mail to {address} has subject {subject} and says {text}, send it",
                ),
                heldout=(
                    "write a mail to {address} with the subject {subject} and the text {text}",
                    "send {text} to {address} under subject {subject}",
                ),
            ),
        ),
        RequestGenerator(
            name="send_by_name",
            draw=_send_by_name,
            setups=(CONNECTED,),
            topic="address",
            weight=1.2,
            wordings=Wordings(
                train=(
                    "find the address of {person} and send a mail, subject {subject}, text {text}",
                    "write {text} to {person}, subject {subject}, but look up the address first",
                    "look up {person} and mail {text} under the subject {subject}",
                    "{person} should get a mail with subject {subject} and text {text}, find the address",
                    "with subject {subject}, send {text} to {person}, the address is in the book",
                    "get the address of {person} from the book and write {text} with the subject {subject}",
                ),
                heldout=(
                    "look up the address of {person} and send the text {text} with subject {subject}",
                    "find {person} in the book and mail {text}, subject {subject}",
                ),
            ),
        ),
        RequestGenerator(
            name="answer",
            draw=_answer,
            setups=(CONNECTED,),
            wordings=Wordings(
                train=(
                    "answer mail {mail_id} with {text}",
                    "reply {text} to mail {mail_id}",
                    "write back {text} to the mail {mail_id}",
                    "the answer to mail {mail_id} is {text}, send it",
                    "to mail {mail_id}, reply with the text {text}",
                    "send {text} as an answer to mail {mail_id}",
                ),
                heldout=(
                    "reply to mail {mail_id} with the text {text}",
                    "send back the answer {text} to mail {mail_id}",
                ),
            ),
        ),
        RequestGenerator(
            name="pass_on",
            draw=_pass_on,
            setups=(CONNECTED,),
            topic="address",
            wordings=Wordings(
                train=(
                    "pass mail {mail_id} on to {person}, look up the address first",
                    "find the address of {person} and pass on mail {mail_id}",
                    "{person} should get mail {mail_id} as well, find the address and pass it on",
                    "look up {person} and pass the mail {mail_id} on",
                    "let {person} have mail {mail_id}, the address is in the book",
                    "get the address of {person} from the book and pass mail {mail_id} on to it",
                ),
                heldout=(
                    "find {person} in the book and pass mail {mail_id} on",
                    "look up the address of {person} and pass mail {mail_id} on to it",
                ),
            ),
        ),
        RequestGenerator(
            name="file_mail",
            draw=_file,
            setups=(CONNECTED, MAIL_FOLDER),
            weight=2.0,
            wordings=Wordings(
                train=(
                    "put mail {mail_id} into the folder {folder}",
                    "file mail {mail_id} under {folder}",
                    "move the mail {mail_id} to the folder {folder}",
                    "mail {mail_id} belongs in {folder}, move it",
                    "keep mail {mail_id} in the {folder} folder",
                    "the folder for mail {mail_id} is {folder}",
                ),
                heldout=(
                    "file the mail {mail_id} in the folder {folder}",
                    "move mail {mail_id} into the {folder} folder",
                ),
            ),
        ),
        RequestGenerator(
            name="mark_mail",
            draw=_mark,
            setups=(CONNECTED,),
            wordings=Wordings(
                train=(
                    "mark mail {mail_id} as {mark}",
                    "mail {mail_id} is {mark}, mark it",
                    "set the mark {mark} on mail {mail_id}",
                    "give mail {mail_id} the mark {mark}",
                    "put {mark} on the mail {mail_id} as a mark",
                    "the mail with number {mail_id} should be marked {mark}",
                ),
                heldout=("mark the mail with number {mail_id} as {mark}", "put the mark {mark} on mail {mail_id}"),
            ),
        ),
        RequestGenerator(
            name="bin_mail",
            draw=_bin,
            setups=(CONNECTED,),
            wordings=Wordings(
                train=(
                    "throw mail {mail_id} away",
                    "delete mail {mail_id} for good",
                    "put the mail {mail_id} into the bin",
                    "get rid of mail {mail_id}",
                    "bin the mail with number {mail_id}",
                    "I do not need mail {mail_id}, throw it away",
                ),
                heldout=("delete the mail with number {mail_id}", "I do not need the mail {mail_id}, get rid of it"),
            ),
        ),
    ),
)
