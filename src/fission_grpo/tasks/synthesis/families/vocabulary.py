"""Our own vocabulary: nothing here was taken from a benchmark's entries."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random


def _words(*lines: str) -> tuple[str, ...]:
    return tuple(" ".join(lines).split())


NOUNS = _words(
    "anchor amber badge basket beacon birch bottle bridge bronze canyon carbon castle cedar cellar cherry clover",
    "cobalt copper coral cotton crater crystal delta desert dragon ember engine fabric falcon feather fender",
    "fossil garden ginger glacier granite harbor hazel helmet island ivory jacket jungle kettle ladder lagoon",
    "lantern lemon lizard magnet maple marble meadow melon mirror monsoon nectar needle nickel oasis olive orchid",
    "otter oxygen paddle panda parrot pebble pepper pillar planet pocket prairie quartz rabbit radar raven ribbon",
    "river rocket saddle salmon sapling shadow signal silver sparrow spruce summit sunset temple thunder timber",
    "tulip tunnel turbine valley velvet violin walnut willow winter zephyr",
)

PEOPLE = _words(
    "adele amos bianca boris carla cyrus daria dexter elena ezra fiona felix gilda gustav hanna hugo imani ivan",
    "jonas judith kiran klara lars leona marta milo nadia nolan odette oscar petra quincy rania rufus selma silas",
    "tamar tobias ursula viktor wanda xavier yara yusuf zelda zoltan",
)

TICKERS = _words(
    "ARBO BLYX CRUV DEXO DRYL ELVA FENQ FLUX GRIM HALO HEXA IVOR JADE KELP KRYO LUMA MIRX MOSS NOVI ONYX ORBI",
    "PLUM PYRE QILL QUOL RHEA RUNE SABL SOLV TARN TERN UMBR VANT VEGA WISP WREN XYLO YARN ZEND ZINC",
)

EXTENSIONS = ("txt", "md", "csv", "log", "cfg")


def phrase(rng: Random, fewest: int = 2, most: int = 3) -> str:
    """A few nouns in a row: free text with no pattern to guess."""
    return " ".join(rng.sample(NOUNS, rng.randint(fewest, most)))


def file_name(rng: Random) -> str:
    """A file name such as `quartz.csv`."""
    return f"{rng.choice(NOUNS)}.{rng.choice(EXTENSIONS)}"


def password(rng: Random) -> str:
    """A password such as `walnut47`."""
    return f"{rng.choice(NOUNS)}{rng.randint(10, 99)}"


def user_name(rng: Random) -> str:
    """A login such as `petra31`."""
    return f"{rng.choice(PEOPLE)}{rng.randint(10, 99)}"


def price(rng: Random, lowest: int, highest: int) -> float:
    """An amount in quarters, so that sums of prices stay exact in binary."""
    return rng.randint(lowest * 4, highest * 4) / 4


def several(rng: Random, things: Sequence[str], fewest: int, most: int) -> list[str]:
    """Some different things, in random order."""
    return rng.sample(list(things), rng.randint(fewest, most))


def day(rng: Random) -> str:
    """A day of one year such as `2026-05-17`."""
    return f"2026-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def mail_address(rng: Random, person: str) -> str:
    """Somebody's address such as `petra@walnut.example`."""
    return f"{person}@{rng.choice(NOUNS)}.example"
