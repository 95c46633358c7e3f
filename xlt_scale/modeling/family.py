"""The Hugging Face class of an encoder, by its configuration."""

from transformers import AutoModel, AutoModelForTextEncoding, PretrainedConfig, PreTrainedModel


def encoder_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The family's bare encoder; of a family that also decodes (T5), the encoder alone."""
    encoders = AutoModelForTextEncoding._model_mapping
    found = (encoders if type(config) in encoders else AutoModel._model_mapping)[type(config)]
    return found[0] if isinstance(found, tuple) else found
