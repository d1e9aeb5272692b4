"""Requests to `MessageAPI`, which no model trains on: everything but the address book wants a login."""

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


def _initial_state(rng: Random) -> dict[str, Any]:
    people = [name.title() for name in rng.sample(vocabulary.PEOPLE, 5)]
    first = rng.randint(10, 800)
    ids = [f"USR{first + i:03d}" for i in range(5)]
    return {
        "random_seed": rng.randint(1, 10**6),
        "user_count": first + 4,
        "user_map": dict(zip(people, ids, strict=True)),
        "inbox": [{user: vocabulary.phrase(rng, 2, 4)} for user in ids[1:4]],
        "message_count": 3,
        "current_user": ids[0],
    }


def _login(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    slots = {"user_id": initial.state["current_user"]}
    if unmet:
        initial.state["current_user"] = None
    return Draw(slots=slots, calls=(call("message_login", **slots),) if unmet else ())


MESSAGE_LOGIN = Setup(
    name="message_login",
    fixers=("message_login",),
    arrange=_login,
    notes=Wordings(
        train=(
            "my user id is {user_id}",
            "I am the user {user_id}",
            "log in as {user_id} if needed",
            "the message login is {user_id}",
            "if a login is needed, use {user_id}",
            "my message account is {user_id}",
        ),
        heldout=("if needed, log in as user {user_id}", "my message login is {user_id}"),
    ),
)


def _others(initial: InitialState) -> list[str]:
    own = initial.state["current_user"]
    return [name for name, user in initial.state["user_map"].items() if user != own]


def _send(initial: InitialState) -> Draw:
    receiver = initial.state["user_map"][initial.take(_others(initial))]
    return one_call("send_message", receiver_id=receiver, message=vocabulary.phrase(initial.rng, 2, 4))


def _send_by_name(initial: InitialState) -> Draw:
    name, message = initial.take(_others(initial)), vocabulary.phrase(initial.rng, 2, 4)
    send = call("send_message", receiver_id=initial.state["user_map"][name], message=message)
    return Draw(slots={"user": name, "message": message}, calls=(call("get_user_id", user=name), send))


def _delete(initial: InitialState) -> Draw:
    receivers = [receiver for message in initial.state["inbox"] for receiver in message]
    return one_call("delete_message", receiver_id=initial.take(receivers))


def _sent(initial: InitialState) -> Draw:
    return one_call("view_messages_sent")


def _search(initial: InitialState) -> Draw:
    ((_, text),) = initial.rng.choice(initial.state["inbox"]).items()
    return one_call("search_messages", keyword=initial.rng.choice(text.split()))


def _add(initial: InitialState) -> Draw:
    known = initial.state["user_map"]
    return one_call(
        "add_contact", user_name=initial.take([p.title() for p in vocabulary.PEOPLE if p.title() not in known])
    )


def _user_id(initial: InitialState) -> Draw:
    return one_call("get_user_id", user=initial.take(_others(initial)))


MESSAGES = Api(
    name="MessageAPI",
    initial_state=_initial_state,
    generators=(
        RequestGenerator(
            name="send",
            draw=_send,
            setups=(MESSAGE_LOGIN,),
            weight=1.5,
            wordings=Wordings(
                train=(
                    "send the message {message} to {receiver_id}",
                    "send {receiver_id} the message {message}",
                    "write {message} to user {receiver_id}",
                    "message {receiver_id} with the text {message}",
                    "tell the user {receiver_id} in a message: {message}",
                    "to {receiver_id}, send {message}",
                ),
                heldout=(
                    "send the text {message} to user {receiver_id}",
                    "write the message {message} to {receiver_id}",
                ),
            ),
        ),
        RequestGenerator(
            name="send_by_name",
            draw=_send_by_name,
            setups=(MESSAGE_LOGIN,),
            topic="lookup",
            weight=1.2,
            wordings=Wordings(
                train=(
                    "find the id of {user} and send the message {message}",
                    "look up the user id of {user} and send {message} to it",
                    "send {message} to {user}, but look up the id first",
                    "get the id of {user} and message {message}",
                    "for {user}, find the user id and send the text {message}",
                    "the message {message} should go to {user}, get the id first",
                ),
                heldout=(
                    "look up the id of {user} and send the message {message}",
                    "get the user id of {user} and send the text {message}",
                ),
            ),
        ),
        RequestGenerator(
            name="delete",
            draw=_delete,
            setups=(MESSAGE_LOGIN,),
            topic="inbox",
            wordings=Wordings(
                train=(
                    "delete the latest message to {receiver_id}",
                    "remove the last message to {receiver_id}",
                    "delete my message to user {receiver_id}",
                    "take back the latest message for {receiver_id}",
                    "the last message to {receiver_id} should be deleted",
                    "remove what I sent to {receiver_id}, delete it",
                ),
                heldout=(
                    "remove the latest message to user {receiver_id}",
                    "delete the last message for {receiver_id}",
                ),
            ),
        ),
        RequestGenerator(
            name="sent",
            draw=_sent,
            setups=(MESSAGE_LOGIN,),
            topic="inbox",
            weight=0.7,
            wordings=Wordings(
                train=(
                    "show all messages I sent",
                    "view my sent messages",
                    "list the messages that I sent",
                    "give me all sent messages",
                    "what messages did I send, show them",
                    "get the list of sent messages",
                ),
                heldout=("show my sent messages", "list all messages I sent"),
            ),
        ),
        RequestGenerator(
            name="search",
            draw=_search,
            setups=(MESSAGE_LOGIN,),
            topic="inbox",
            wordings=Wordings(
                train=(
                    "search my messages for {keyword}",
                    "find the messages with {keyword}",
                    "look for {keyword} in my messages",
                    "which messages have the word {keyword}, search them",
                    "search for the keyword {keyword} in the messages",
                    "find messages that have the keyword {keyword}",
                ),
                heldout=("search the messages for the word {keyword}", "find my messages with the keyword {keyword}"),
            ),
        ),
        RequestGenerator(
            name="add_contact",
            draw=_add,
            weight=0.7,
            wordings=Wordings(
                train=(
                    "add the contact {user_name}",
                    "add {user_name} to my contacts",
                    "make {user_name} a new contact",
                    "put {user_name} in my contacts",
                    "create a contact named {user_name}",
                    "I need {user_name} as a contact, add it",
                ),
                heldout=("create the new contact {user_name}", "add a contact named {user_name}"),
            ),
        ),
        RequestGenerator(
            name="user_id",
            draw=_user_id,
            topic="lookup",
            weight=0.7,
            wordings=Wordings(
                train=(
                    "find the user id of {user}",
                    "look up the id of {user}",
                    "tell me the user id of {user}",
                    "what is the id of {user}, find it",
                    "get the id for the user {user}",
                    "give me the user id for {user}",
                ),
                heldout=("look up the user id of {user}", "tell me the id for the user {user}"),
            ),
        ),
    ),
)
