"""Requests to `GorillaFileSystem`: the folder is named, but whether one stands in it already is not."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from fission_grpo.tasks.synthesis.families import vocabulary
from fission_grpo.tasks.synthesis.families.family import (
    Api,
    Draw,
    InitialState,
    RejectedDraw,
    RequestGenerator,
    Setup,
    Wordings,
    call,
    one_call,
)
from fission_grpo.types import ToolCall

HERE = "here"
"""Name of the working folder until a setup renames it."""


def _file(content: str) -> dict[str, Any]:
    return {"type": "file", "content": content}


def _folder(contents: dict[str, Any]) -> dict[str, Any]:
    return {"type": "directory", "contents": contents}


def _lines(rng: Random) -> str:
    return "\n".join(vocabulary.phrase(rng, 1, 3) for _ in range(rng.randint(2, 4)))


def _initial_state(rng: Random) -> dict[str, Any]:
    names = {vocabulary.file_name(rng) for _ in range(6)}
    contents = {name: _file(_lines(rng)) for name in sorted(names)}
    return {"root": {HERE: _folder(contents)}}


def _contents(initial: InitialState) -> dict[str, Any]:
    ((_, folder),) = initial.state["root"].items()
    contents: dict[str, Any] = folder["contents"]
    return contents


def _take_file(initial: InitialState) -> str:
    return initial.take(sorted(name for name, item in _contents(initial).items() if item["type"] == "file"))


def _new_name(initial: InitialState) -> str:
    name = vocabulary.file_name(initial.rng)
    if name in _contents(initial) or name in initial.taken:
        raise RejectedDraw
    initial.taken.add(name)
    return name


def _folder_names(initial: InitialState, count: int) -> list[str]:
    contents = _contents(initial)
    free = [noun for noun in vocabulary.NOUNS if noun not in contents]
    return initial.rng.sample(free, count)


def _neighbours(initial: InitialState, names: list[str]) -> dict[str, Any]:
    """What stands beside the working folder: nothing with the name of any file in it."""
    return {name: _folder({}) for name in names}


def _in_folder(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    folder, parent, *beside = _folder_names(initial, 4)
    inside = _contents(initial)
    slots = {"folder": folder}
    if not unmet:
        initial.state["root"] = {folder: _folder(inside)}
        return Draw(slots=slots, calls=())
    initial.state["root"] = {parent: _folder({**_neighbours(initial, beside), folder: _folder(inside)})}
    return Draw(slots=slots, calls=(call("cd", folder=folder),))


def _in_nested_folder(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    folder, outer, parent, beside = _folder_names(initial, 4)
    inside = _contents(initial)
    slots = {"folder": folder, "outer": outer}
    if not unmet:
        initial.state["root"] = {folder: _folder(inside)}
        return Draw(slots=slots, calls=())
    tree = {outer: _folder({**_neighbours(initial, [beside]), folder: _folder(inside)})}
    calls: tuple[ToolCall, ...] = (call("cd", folder=outer), call("cd", folder=folder))
    if initial.rng.random() < 0.4:  # one step on the way already
        initial.state["root"], calls = tree, calls[1:]
    else:
        initial.state["root"] = {parent: _folder(tree)}
    return Draw(slots=slots, calls=calls)


FOLDER = Setup(
    name="folder",
    fixers=("cd",),
    arrange=_in_folder,
    notes=Wordings(
        train=(
            "it is all in the folder {folder}",
            "work in the folder {folder}",
            "this is about the folder {folder}",
            "use the {folder} folder",
            "all of it is in {folder}",
            "stay in the {folder} folder for this",
        ),
        heldout=("work in the {folder} folder for this", "all of this is in the folder {folder}"),
    ),
)

NESTED = Setup(
    name="folder",
    fixers=("cd",),
    arrange=_in_nested_folder,
    notes=Wordings(
        train=(
            "it is all in the folder {folder} inside {outer}",
            "work in {folder}, a folder of {outer}",
            "this is about the folder {folder} in {outer}",
            "use the {folder} folder inside {outer}",
            "go to {outer} and its folder {folder}",
            "stay in the {folder} folder of {outer}",
        ),
        heldout=("work in the folder {folder} inside {outer}", "go to the {folder} folder in {outer}"),
    ),
)


def _cat(initial: InitialState) -> Draw:
    return one_call("cat", file_name=_take_file(initial))


def _rm(initial: InitialState) -> Draw:
    return one_call("rm", file_name=_take_file(initial))


def _sort(initial: InitialState) -> Draw:
    return one_call("sort", file_name=_take_file(initial))


def _grep(initial: InitialState) -> Draw:
    name = _take_file(initial)
    pattern = initial.rng.choice(_contents(initial)[name]["content"].split())
    return one_call("grep", file_name=name, pattern=pattern)


def _wc(initial: InitialState) -> Draw:
    mode = initial.rng.choice(("l", "w", "c"))
    return one_call("wc", file_name=_take_file(initial), mode=mode)


def _tail(initial: InitialState) -> Draw:
    return one_call("tail", file_name=_take_file(initial), lines=initial.rng.randint(1, 3))


def _rename(initial: InitialState) -> Draw:
    return one_call("mv", source=_take_file(initial), destination=_new_name(initial))


def _move(initial: InitialState) -> Draw:
    source, (target,) = _take_file(initial), _folder_names(initial, 1)
    _contents(initial)[target] = _folder({})
    return one_call("mv", source=source, destination=target)


def _copy(initial: InitialState) -> Draw:
    return one_call("cp", source=_take_file(initial), destination=_new_name(initial))


def _diff(initial: InitialState) -> Draw:
    return one_call("diff", file_name1=_take_file(initial), file_name2=_take_file(initial))


def _write(initial: InitialState) -> Draw:
    return one_call("echo", content=vocabulary.phrase(initial.rng), file_name=_take_file(initial))


def _rmdir(initial: InitialState) -> Draw:
    (target,) = _folder_names(initial, 1)
    _contents(initial)[target] = _folder({})
    return one_call("rmdir", dir_name=target)


_FLAT = (
    RequestGenerator(
        name="cat",
        draw=_cat,
        setups=(FOLDER,),
        weight=1.3,
        wordings=Wordings(
            train=(
                "show the file {file_name}",
                "display the content of {file_name}",
                "print {file_name}",
                "show me what is in {file_name}",
                "read the file {file_name} to me",
                "what is the content of {file_name}, show it",
            ),
            heldout=("display the file {file_name}", "show me the content of {file_name}"),
        ),
    ),
    RequestGenerator(
        name="rm",
        draw=_rm,
        setups=(FOLDER,),
        wordings=Wordings(
            train=(
                "remove the file {file_name}",
                "delete {file_name}",
                "get rid of {file_name}",
                "throw away the file {file_name}",
                "{file_name} is not needed, delete it",
                "erase the file {file_name}",
            ),
            heldout=("delete the file {file_name}", "get rid of the file {file_name}, it is not needed"),
        ),
    ),
    RequestGenerator(
        name="sort",
        draw=_sort,
        setups=(FOLDER,),
        wordings=Wordings(
            train=(
                "sort the file {file_name}",
                "sort the lines of {file_name}",
                "show {file_name} sorted by line",
                "put the lines of {file_name} in order by a sort",
                "give me {file_name} with sorted lines",
                "sort {file_name} line by line",
            ),
            heldout=("show the sorted lines of {file_name}", "sort the file {file_name} by line"),
        ),
    ),
    RequestGenerator(
        name="grep",
        draw=_grep,
        setups=(FOLDER,),
        weight=1.2,
        wordings=Wordings(
            train=(
                "find the lines with {pattern} in {file_name}",
                "search {file_name} for {pattern}",
                "look for {pattern} in the file {file_name}",
                "grep {pattern} in {file_name}",
                "which lines of {file_name} have {pattern}, search them",
                "in {file_name}, find the text {pattern}",
            ),
            heldout=(
                "search the file {file_name} for the text {pattern}",
                "look for lines with {pattern} in {file_name}",
            ),
        ),
    ),
    RequestGenerator(
        name="wc",
        draw=_wc,
        setups=(FOLDER,),
        wordings=Wordings(
            train=(
                "count {file_name} with mode {mode}",
                "run a count of {file_name}, mode {mode}",
                "give me the {mode} count of {file_name}",
                "use wc on {file_name} with mode {mode}",
                "how long is {file_name}, count in mode {mode}",
                "count the file {file_name} in mode {mode}",
            ),
            heldout=("use wc in mode {mode} on the file {file_name}", "give me a count of {file_name}, mode {mode}"),
        ),
    ),
    RequestGenerator(
        name="tail",
        draw=_tail,
        setups=(FOLDER,),
        wordings=Wordings(
            train=(
                "show the last {lines} lines of {file_name}",
                "print the tail of {file_name}, {lines} lines",
                "give me the last {lines} lines of the file {file_name}",
                "show {lines} lines from the end of {file_name}",
                "the end of {file_name}, {lines} lines, print it",
                "tail {file_name} with {lines} lines",
            ),
            heldout=(
                "print the last {lines} lines of the file {file_name}",
                "give me the tail of {file_name}, {lines} lines",
            ),
        ),
    ),
    RequestGenerator(
        name="rename",
        draw=_rename,
        setups=(FOLDER,),
        topic="move",
        wordings=Wordings(
            train=(
                "rename {source} to {destination}",
                "change the name of {source} to {destination}",
                "give {source} the new name {destination}",
                "call the file {source} {destination} from now on",
                "the file {source} should get the name {destination}",
                "rename the file {source} as {destination}",
            ),
            heldout=(
                "change the name of the file {source} to {destination}",
                "give the file {source} the name {destination}",
            ),
        ),
    ),
    RequestGenerator(
        name="move",
        draw=_move,
        setups=(FOLDER,),
        wordings=Wordings(
            train=(
                "move {source} into {destination}",
                "put the file {source} into {destination}",
                "move the file {source} to {destination}",
                "{source} belongs into {destination}, move it",
                "shift {source} into the place {destination}",
                "bring {source} over to {destination}",
            ),
            heldout=("move the file {source} into {destination}", "put {source} into the place {destination}"),
        ),
    ),
    RequestGenerator(
        name="copy",
        draw=_copy,
        setups=(FOLDER,),
        wordings=Wordings(
            train=(
                "copy {source} to {destination}",
                "make a copy of {source} with the name {destination}",
                "copy the file {source} as {destination}",
                "duplicate {source} as {destination}",
                "I need a copy of {source}, name it {destination}",
                "save a copy of {source} as {destination}",
            ),
            heldout=(
                "make a copy of the file {source} as {destination}",
                "duplicate the file {source} to {destination}",
            ),
        ),
    ),
    RequestGenerator(
        name="diff",
        draw=_diff,
        setups=(FOLDER,),
        wordings=Wordings(
            train=(
                "compare {file_name1} with {file_name2}",
                "show the difference of {file_name1} and {file_name2}",
                "how do {file_name1} and {file_name2} differ, compare them",
                "run a diff of {file_name1} and {file_name2}",
                "compare the files {file_name1} and {file_name2}",
                "find the difference between {file_name1} and {file_name2}",
            ),
            heldout=(
                "show the difference between {file_name1} and {file_name2}",
                "run a diff of the files {file_name1} and {file_name2}",
            ),
        ),
    ),
    RequestGenerator(
        name="write",
        draw=_write,
        setups=(FOLDER,),
        wordings=Wordings(
            train=(
                "write {content} into {file_name}",
                "put the text {content} into the file {file_name}",
                "replace the content of {file_name} by {content}",
                "echo {content} into {file_name}",
                "the file {file_name} should say {content}, write it",
                "write the text {content} to {file_name}",
            ),
            heldout=("put {content} into the file {file_name}", "write {content} to the file {file_name}"),
        ),
    ),
    RequestGenerator(
        name="rmdir",
        draw=_rmdir,
        setups=(FOLDER,),
        weight=0.7,
        wordings=Wordings(
            train=(
                "remove the empty directory {dir_name}",
                "delete the directory {dir_name}",
                "get rid of the directory {dir_name}",
                "the directory {dir_name} is empty, remove it",
                "drop the empty directory {dir_name}",
                "remove directory {dir_name}",
            ),
            heldout=("delete the empty directory {dir_name}", "the directory {dir_name} is empty, get rid of it"),
        ),
    ),
)

_NESTED = tuple(
    replace(flat, name=f"{flat.name}_nested", topic=flat.name, setups=(NESTED,), weight=0.8)
    for flat in _FLAT
    if flat.name in {"cat", "grep", "sort", "tail", "write"}
)

FILES = Api(name="GorillaFileSystem", initial_state=_initial_state, generators=_FLAT + _NESTED)
