"""The forms of rows that can be converted, the more special ones first."""

from __future__ import annotations

from collections.abc import Mapping

from fission_grpo.tasks.convert.bfcl import MULTI, SINGLE
from fission_grpo.tasks.convert.conversational import CONVERSATIONS, PROMPTS
from fission_grpo.tasks.convert.form import Form, SourceRow
from fission_grpo.tasks.convert.reinforcement import SKYRL, VERL
from fission_grpo.tasks.convert.toolace import TOOLACE
from fission_grpo.tasks.convert.xlam import XLAM

FORMS: Mapping[str, Form] = {
    form.name: form for form in (MULTI, SINGLE, SKYRL, VERL, TOOLACE, XLAM, CONVERSATIONS, PROMPTS)
}
"""By the name that `--from` takes."""


def form_of(row: SourceRow) -> Form | None:
    """The form that a row has the marks of."""
    return next((form for form in FORMS.values() if form.fits(row)), None)
