"""The Hugging Face class of an encoder, by its configuration."""

from transformers import AutoModel, AutoModelForTextEncoding, PretrainedConfig, PreTrainedModel


def encoder_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The family's bare encoder; of a family that also decodes (T5), the encoder alone."""
    mapping = AutoModelForTextEncoding._model_mapping if config.is_encoder_decoder else AutoModel._model_mapping
    found = mapping[type(config)]
    return found[0] if isinstance(found, tuple) else found
