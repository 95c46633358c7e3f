"""What masked language modelling masks with, and where it predicts: of a run's tokenizer and a phase's options."""

from typing import TYPE_CHECKING

from xlt_scale.config import PhaseOptions
from xlt_scale.data.assembly import Masking
from xlt_scale.errors import UserError
from xlt_scale.modeling.sequence_ends import mask_token

if TYPE_CHECKING:
    from xlt_scale.training.setup import RunSetup


def masks_tokens(setup: "RunSetup", phase: PhaseOptions) -> bool:
    """Whether a phase trains masked language modelling."""
    return any(setup.catalogue[task].kind == "masked_language_modeling" for task in phase.tasks)


def check_masking(setup: "RunSetup", phase: PhaseOptions) -> None:
    """
    Raises:
        UserError: the phase masks tokens and there is nothing to mask them with, or says how and masks none.
    """
    if masks_tokens(setup, phase):
        if mask_token(setup.preparer.tokenizer, setup.options.model.mask_token) is None:
            raise UserError(
                f"phase {phase.name!r}: the tokenizer has no mask token, which masked language modelling needs; "
                "set model.mask_token to an entry that no text has"
            )
    elif phase.trains and phase.objective != "masked_token":
        raise UserError(
            f"phase {phase.name!r}: objective = {phase.objective!r}, but it trains no masked language modelling; "
            "remove it"
        )


def masking_of(setup: "RunSetup", phase: PhaseOptions, key: int) -> Masking:
    """How the phase masks. `key` decides the places."""
    mask = mask_token(setup.preparer.tokenizer, setup.options.model.mask_token)
    places_before = 1 if phase.objective == "masked_next_token" else 0
    return Masking.for_tokenizer(setup.preparer.tokenizer, phase.masking, key, mask, places_before)


def foreign_mask_token(setup: "RunSetup", phase: PhaseOptions) -> str:
    """What stands for masked tokens where it is not the tokenizer's own token for it; '' for phases that mask none."""
    if not masks_tokens(setup, phase):
        return ""
    own, found = (
        setup.preparer.tokenizer.mask_token,
        mask_token(setup.preparer.tokenizer, setup.options.model.mask_token),
    )
    return "" if found is None or found == own else found
