"""DeepSpeed ZeRO-3 and FSDP2 behind one small interface."""
