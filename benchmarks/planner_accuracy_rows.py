"""Figures that others or we have measured on GPUs, and the workloads and layouts they are figures of.

Sources: measured on one H200 by this project (tokens per second and peaks; the batch sizes were not recorded and are
assumed here); MosaicML's llm-foundry, scripts/train/benchmarking/README.md (MPT decoders, FSDP, 2023); torchtitan,
benchmarks/llama3_h100_202412_torchtitan.md and llama3-8b_h200_202506_trainy-whitefiber.md (Llama 3 8B, FSDP2).
"""

from dataclasses import dataclass, replace

from xlt_scale.planning.hardware import Cluster
from xlt_scale.planning.known_hardware import H100, H200, find_cluster
from xlt_scale.planning.shapes import shape_of
from xlt_scale.planning.workload import Layout, Lengths, Shape, Workload
from xlt_scale.sizes import find_size


@dataclass(frozen=True)
class Row:
    """A measured figure and what it is a figure of.

    Attributes:
        tokens_per_second: of one device, real tokens; 0 = not measured.
        memory_gib: peak of a device; 0 = not measured.
        use: 'fitted' where a constant of the model comes from this figure, 'held out' where none does.
        assumed: what the source does not say.
    """

    source: str
    name: str
    workload: Workload
    layout: Layout
    cluster: Cluster
    tokens_per_second: float = 0.0
    memory_gib: float = 0.0
    use: str = "held out"
    assumed: str = ""


def all_rows() -> list[Row]:
    """Every figure there is."""
    return [*_h200_rows(), *_foundry_rows(), *_titan_rows()]


# Log-normal with median 38, cut at 128: a deviation of half the logarithm gives this mean and mean square.
NLI = Lengths(mean=42.9, mean_square=2300.0, longest=128)
_BATCH_OF_64 = "64 examples"
_BATCH_OF_128 = "128 examples"
_BATCH_OF_256 = "256 examples, one micro-batch"


def _h200_rows() -> list[Row]:
    """Measured on one H200; MFU counts non-embedding operations."""
    one = find_cluster("h200")
    large, larger = shape_of(find_size("xlmr-xl")), shape_of(find_size("xlmr-xxl"))
    zero3 = Layout("zero3", 1, max_tokens_per_micro_batch=32_768, stock=True, gradient_bytes=2)
    fsdp2 = Layout("fsdp2", 1, max_tokens_per_micro_batch=16_384, stock=True)
    padded = replace(NLI, padding=128 / NLI.mean)
    grouped = replace(NLI, padding=1.05)
    xxl = Workload(larger, NLI, 128, optimizer="adamw_8bit")
    source = "one H200"
    return [
        Row(source, "XL, stock ZeRO-3, padded", Workload(large, padded, 64), zero3, one, 8195, assumed=_BATCH_OF_64),
        Row(
            source,
            "XL, stock ZeRO-3, grouped by length",
            Workload(large, grouped, 64),
            zero3,
            one,
            9302,
            use="fitted",
            assumed=_BATCH_OF_64 + ", 5 % padding",
        ),
        Row(
            source,
            "XL, ZeRO-3, unpadded",
            Workload(large, NLI, 256),
            zero3,
            one,
            23_373,
            use="fitted",
            assumed=_BATCH_OF_256,
        ),
        Row(source, "XL, FSDP2, unpadded", Workload(large, NLI, 256), fsdp2, one, 26_523, assumed=_BATCH_OF_256),
        Row(
            source,
            "XXL, ZeRO-3, 8-bit AdamW, checkpointing",
            xxl,
            replace(zero3, activation_checkpointing=True),
            one,
            _tokens_per_second(larger, 0.33),
            113.0,
            assumed=_BATCH_OF_128 + "; bf16 gradients, DeepSpeed's default",
        ),
        Row(
            source,
            "XXL, bf16 weights stepped directly, 8-bit AdamW, checkpointing",
            replace(xxl, precision="bf16_stochastic"),
            Layout("fsdp2", 1, max_tokens_per_micro_batch=16_384, activation_checkpointing=True),
            one,
            _tokens_per_second(larger, 0.42),
            assumed=_BATCH_OF_128 + "; predicted with random rounding, and 32-bit moments of embeddings",
        ),
    ]


def _tokens_per_second(shape: Shape, mfu: float) -> float:
    per_token = 6 * shape.num_non_embedding_parameters
    per_token += round(12 * shape.num_layers * shape.hidden_size * NLI.mean_square / NLI.mean)
    return mfu * H200.peak_flops / per_token


# MPT: layers, width, heads.
_MPT = {
    "760m": (24, 1536, 12),
    "1b": (24, 2048, 16),
    "3b": (32, 2560, 20),
    "7b": (32, 4096, 32),
    "13b": (40, 5120, 40),
    "30b": (48, 7168, 56),
    "70b": (80, 8192, 64),
}
# Model, tokens of a sequence, devices, sequences of a micro-batch, of a step, checkpointing, tokens/s and device.
_FOUNDRY_H100 = """
760m 512 8 96 1536 no 83749
760m 2048 8 24 384 no 63147
760m 2048 32 24 768 no 67971
1b 512 8 56 1792 no 52275
1b 2048 8 14 112 no 45455
1b 2048 16 20 320 no 46037
1b 2048 64 20 1280 no 44402
3b 512 8 40 1920 no 27965
3b 1024 8 20 960 no 27046
3b 8192 8 3 144 no 16578
3b 2048 16 10 480 no 24142
3b 2048 64 6 1152 no 22525
7b 1024 8 64 1024 yes 10203
7b 2048 8 6 48 no 10643
7b 8192 8 8 128 yes 6935
13b 1024 8 40 960 yes 5502
13b 2048 8 2 16 no 4792
13b 2048 64 2 128 no 4800
30b 1024 8 6 1008 yes 2084
30b 2048 16 10 480 yes 2263
30b 2048 32 14 1344 yes 2308
70b 2048 32 2 1024 yes 882
70b 2048 64 8 2048 yes 1039
"""
_FOUNDRY_A100_80 = """
760m 2048 8 24 384 no 32434
1b 512 8 56 1792 no 23148
1b 2048 8 14 448 no 20513
3b 512 8 40 1920 no 12127
3b 2048 8 10 160 no 10811
7b 1024 8 64 1024 yes 4357
7b 2048 8 6 96 no 4641
13b 1024 8 40 960 yes 2330
13b 2048 8 2 48 no 2262
30b 2048 8 3 504 yes 916
70b 2048 32 2 1024 yes 373
70b 2048 64 8 2048 yes 410
"""
_FOUNDRY_A100_40 = """
7b 2048 8 12 384 yes 3679
7b 2048 16 16 256 yes 3645
7b 2048 32 18 576 yes 3725
7b 2048 64 18 1152 yes 3665
7b 2048 128 18 2304 yes 3623
13b 2048 16 10 160 yes 1993
13b 2048 32 14 448 yes 1998
13b 2048 64 16 1024 yes 1976
13b 2048 128 16 2048 yes 1972
30b 2048 32 4 128 yes 857
30b 2048 128 6 768 yes 865
70b 2048 64 2 128 yes 276
70b 2048 128 4 512 yes 376
"""
# field notes, where the micro-batch is not kept: as on 8 devices.
_FOUNDRY_LARGE = """
7b 2048 128 6 768 no 10475
7b 2048 512 6 3072 no 9670
"""


def _foundry_rows() -> list[Row]:
    tables = (
        ("llm-foundry, H100", _FOUNDRY_H100, "dgx-h100", ""),
        ("llm-foundry, H100", _FOUNDRY_LARGE, "dgx-h100", "micro-batch as on 8 devices"),
        ("llm-foundry, A100 80 GB", _FOUNDRY_A100_80, "a100-80g", ""),
        ("llm-foundry, A100 40 GB", _FOUNDRY_A100_40, "a100-40g", "reduced in fp32 (it was bf16)"),
    )
    rows = []
    for source, table, cluster_name, assumed in tables:
        for line in table.strip().splitlines():
            model, length, devices, micro, batch, checkpointing, speed = line.split()
            num_nodes = max(int(devices) // 8, 1)
            layout = Layout(
                "fsdp2",
                int(devices),
                num_nodes,
                max_tokens_per_micro_batch=int(micro) * int(length),
                activation_checkpointing=checkpointing == "yes",
                stock=True,
            )
            workload = Workload(
                shape=_mpt_shape(model, int(length)),
                lengths=_equal(int(length)),
                batch_size=int(batch),
                dropout=0.0,
                masked_share=1.0,
                sliced_loss=False,
            )
            name = f"MPT {model}, {length} tokens, {devices} devices" + (", AC" if checkpointing == "yes" else "")
            cluster = replace(find_cluster(cluster_name), num_nodes=num_nodes)
            rows.append(Row(source, name, workload, layout, cluster, float(speed), assumed=assumed))
    return rows


def _mpt_shape(model: str, length: int) -> Shape:
    layers, hidden, heads = _MPT[model]
    vocabulary = 50_368
    embeddings = (vocabulary + length) * hidden
    return Shape(
        name=f"mpt-{model}",
        num_parameters=12 * hidden * hidden * layers + embeddings,
        num_embedding_parameters=embeddings,
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        intermediate_size=4 * hidden,
        vocab_size=vocabulary,
        pre_norm=True,
        causal=True,
    )


def _titan_rows() -> list[Row]:
    llama = Shape(
        name="llama-3-8b",
        num_parameters=8_030_261_248,
        num_embedding_parameters=2 * 128_256 * 4096,
        num_layers=32,
        hidden_size=4096,
        num_heads=32,
        intermediate_size=14_336,
        vocab_size=128_256,
        pre_norm=True,
        gated=True,
        causal=True,
        num_key_value_heads=8,
    )
    # Held to 500 of 700 W: products are taken to slow down alike. HBM2e of 2.4 TB/s, reached as an H200's is.
    card = replace(H100, name="h100-96g", memory_gib=94.0, matmul_flops=790e12 * 5 / 7, bandwidth=2.4e12 * 4.3 / 4.8)
    slow = replace(find_cluster("dgx-h100"), name="h100-96g", device=card)
    fast = find_cluster("hgx-h200")
    cases = [
        (slow, 8, False, False, 5762, 82.4),
        (slow, 8, True, False, 6667, 77.0),
        (slow, 8, True, True, 8532, 76.8),
        (slow, 128, False, False, 5605, 67.0),
        (slow, 128, True, False, 6514, 62.0),
        (slow, 128, True, True, 8380, 61.8),
        (fast, 32, True, True, 10_938, 0.0),
        (fast, 64, True, True, 10_753, 0.0),
    ]
    rows = []
    for cluster, devices, compiled, float8, speed, memory in cases:
        workload = Workload(llama, _equal(8192), 2 * devices, dropout=0.0, masked_share=1.0, sliced_loss=False)
        layout = Layout(
            "fsdp2",
            devices,
            devices // 8,
            max_tokens_per_micro_batch=16_384,
            # Its policy computes every second product again; every second layer is as many.
            activation_checkpointing=True,
            checkpoint_every=2,
            compile=compiled,
            float8=float8,
            stock=True,
        )
        words = ", compiled" * compiled + ", float8" * float8
        name = f"Llama 3 8B, 8192 tokens, {devices} devices{words}"
        assumed = "every second layer computed again (it was every second product)"
        assumed += "; products slow down as 500 W to 700" if cluster is slow else ""
        source = "torchtitan, H100 96 GB" if cluster is slow else "torchtitan, H200"
        cluster_of_all = replace(cluster, num_nodes=devices // 8)
        rows.append(Row(source, name, workload, layout, cluster_of_all, speed, memory, assumed=assumed))
    return rows


def _equal(length: int) -> Lengths:
    return Lengths(float(length), float(length) ** 2, length)
