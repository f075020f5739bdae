"""The rows of the tables."""

from dataclasses import replace

from bench import losses
from bench.cases import AnyCase, CellCase, LossCase, OptimCase, SequenceCase, Shape, StreamCase


def gpt2() -> tuple[Shape, ...]:
    """Return the shapes of GPT-2's 148 parameters, 124,439,808 elements (Radford et al. 2019)."""
    block: tuple[Shape, ...] = (
        *((768,), (768,)),  # ln_1
        *((768, 2304), (2304,), (768, 768), (768,)),  # attn
        *((768,), (768,)),  # ln_2
        *((768, 3072), (3072,), (3072, 768), (768,)),  # mlp
    )
    return ((50257, 768), (1024, 768), *block * 12, (768,), (768,))


ARRAY_PEERS = ("pure", "numpy", "torch", "optax")
RNN_PEERS = ("pure", "numpy", "torch", "onnxruntime")
GPT2_NOTE = "GPT-2's 148"
MILLION = ((1_048_576,),)
LARGE = ((25_000_000,),)

OPTIM = (
    OptimCase("adam", ("pure", "numpy", "torch", "thinc", "optax"), shapes=((1,),), targets={"seconds": 1e-6}),
    OptimCase("adam", ("torch",), shapes=((1,),) * 1000, targets={"seconds": 41e-6}),
    OptimCase("adam", (*ARRAY_PEERS, "thinc"), shapes=((262_144,),), targets={"torch": 0.5}),
    OptimCase("adam", (*ARRAY_PEERS, "thinc"), shapes=MILLION, targets={"torch": 0.65}),
    OptimCase("adam", ("torch",), shapes=MILLION, check_finite=True, targets={"torch": 0.85}),
    OptimCase("adam", (*ARRAY_PEERS, "thinc"), shapes=LARGE, targets={"ceiling": 1.05}),
    OptimCase("adamw", ("numpy", "torch"), shapes=((256,),) * 1000, targets={"torch": 1 / 25}),
    OptimCase("adamw", ("numpy", "torch"), shapes=gpt2(), note=GPT2_NOTE, full_peers=("optax",)),
    OptimCase(
        "adamw", ("torch",), shapes=gpt2(), note=GPT2_NOTE, max_norm=1.0, zero_grads=True, targets={"torch": 0.7}
    ),
    OptimCase(
        "rmsprop",
        ("torch",),
        shapes=gpt2(),
        note=GPT2_NOTE,
        full_peers=("numpy", "optax"),
        targets={"torch": 1 / 3},
    ),
    OptimCase("rmsprop", ARRAY_PEERS, shapes=MILLION),
    OptimCase("adagrad", ARRAY_PEERS, shapes=MILLION),
    OptimCase("rmsprop", ARRAY_PEERS, shapes=LARGE, full=True),
    OptimCase("adagrad", ARRAY_PEERS, shapes=LARGE, full=True),
    OptimCase("adagrad", ("torch",), shapes=gpt2(), note=GPT2_NOTE, full=True),
)

CELLS = (
    CellCase("lstm", RNN_PEERS, size=1, targets={"seconds": 1e-6}),
    CellCase("lstm", RNN_PEERS, size=64, targets={"onnxruntime": 0.2, "seconds": 1.8e-6}),
    CellCase("lstm", RNN_PEERS, size=256, targets={"onnxruntime": 0.5}),
    CellCase("lstm", RNN_PEERS, size=512),
    *(CellCase("lstm", ("torch",), size=size, frozen=False, targets={"torch": 1.0}) for size in (64, 256, 512)),
    CellCase("lstm", RNN_PEERS, batch=64, size=512, targets={"ceiling": 1 / 0.85}),
    CellCase("lstm", ("torch",), batch=64, size=512, frozen=False, targets={"ceiling": 1 / 0.65}),
    CellCase("gru", RNN_PEERS, size=64),
    CellCase("gru", RNN_PEERS, size=256),
    *(CellCase("gru", ("torch",), size=size, frozen=False, targets={"torch": 1.0}) for size in (64, 256)),
    CellCase("gru", RNN_PEERS, batch=64, size=512, targets={"ceiling": 1 / 0.85}),
    CellCase("gru", ("torch",), batch=64, size=512, frozen=False, targets={"ceiling": 1 / 0.65}),
    *(CellCase(m, RNN_PEERS, batch=b, size=n, full=True) for m in ("lstm", "gru") for b, n in ((8, 256), (256, 1024))),
)

# Over a whole sequence.
CEILING = {"ceiling": 1 / 0.88}
INFERENCE = {
    "lstm": {"torch": 1 / 1.08, "onnxruntime": 1 / 1.2} | CEILING,
    "gru": {"torch": 1 / 2.5, "onnxruntime": 1 / 1.4} | CEILING,
}
LONG = {"steps": 50, "batch": 64, "size": 512}
RNNS = ("lstm", "gru")

SEQUENCES = (
    *(
        SequenceCase(m, peers, **shape, frozen=frozen, targets=INFERENCE[m], every=True, full=shape is not LONG)
        for shape in (LONG, {"steps": 35, "batch": 20, "size": 650}, {"steps": 50, "batch": 128, "size": 1024})
        for frozen, peers in ((True, RNN_PEERS), (False, ("torch", "onnxruntime")))
        for m in RNNS
    ),
    *(SequenceCase(m, ("plain",), **LONG, option="layer norm", targets={"plain": 1.25}) for m in RNNS),
    *(
        SequenceCase(m, ("plain",), **LONG, taped=True, option=option, targets={"plain": 1.05})
        for m in RNNS
        for option in ("recurrent dropout", "zoneout")
    ),
    *(SequenceCase(m, ("torch",), **LONG, varied=True, targets={"torch": 1 / 4}) for m in RNNS),
    SequenceCase("lstm", ("torch",), **LONG, frozen=False, backward=True, targets={"torch": 1 / 1.1}),
    SequenceCase("gru", ("torch",), **LONG, frozen=False, backward=True, targets={"torch": 1 / 3}),
    *(SequenceCase(m, RNN_PEERS, steps=100, size=128, targets={"torch": 1 / 3}) for m in RNNS),
    SequenceCase(
        "lstm", RNN_PEERS, steps=100, size=512, targets={"torch": 1 / 1.2, "onnxruntime": 1 / 1.2}, every=True
    ),
)

STREAMED = ((64, 1, 1 / 5), (256, 1, 1 / 1.3), (256, 2, 1 / 2.7), (512, 2, 1 / 1.4))  # size, threads, target

STREAMS = (
    *(StreamCase("lstm", ("onnxruntime",), size=n, threads=k, targets={"onnxruntime": r}) for n, k, r in STREAMED),
    *(StreamCase("lstm", ("onnxruntime",), size=n, threads=k, pace=1e-3) for n, k, _ in STREAMED),
    *(StreamCase("lstm", ("onnxruntime",), size=512, threads=2, weights=weights) for weights in ("bfloat16", "int8")),
)


LOSS_PEERS = ("numpy", "torch")
CUSTOM_PEERS = (*LOSS_PEERS, "numexpr")
COMPILED = ("compiled",)
CUSTOM_TARGETS = {"numpy": 1 / 5, "torch": 1 / 8, "roofline": 1 / 0.5}

LOSSES = (
    *(
        LossCase("cross_entropy", LOSS_PEERS, shape=shape, targets=targets, every=True, full_peers=COMPILED)
        for shape, targets in (
            ((2048, 50257), {"torch": 1 / 5, "ceiling": 2.0}),
            ((65536, 10), {"torch": 1 / 4}),
            ((8192, 1000), {"torch": 1 / 4}),
        )
    ),
    *(
        LossCase(name, CUSTOM_PEERS, shape=MILLION[0], targets=CUSTOM_TARGETS, every=True, full_peers=COMPILED)
        for name in losses.CUSTOM
    ),
)


CPU = (*OPTIM, *CELLS, *SEQUENCES, *STREAMS, *LOSSES)


def on_cuda(case: AnyCase) -> AnyCase | None:
    """Return the case with the peers that a GPU has; None for what is not run there."""
    match case:
        case OptimCase(max_norm=None, check_finite=False, zero_grads=False):
            peers = ("graph", "torch", "torch_graph", "elementwise", "fuse")
            peers += {"rmsprop": (), "adagrad": ("torch_foreach",)}.get(case.method, ("torch_foreach", "apex"))
        case OptimCase():
            peers = ("graph", "torch", "torch_graph")
        case CellCase() | SequenceCase(varied=False, option=""):
            return replace(case, peers=("graph", "torch", "torch_graph"), frozen=False, full_peers=(), targets={})
        case SequenceCase(varied=False, option="layer norm"):
            return replace(case, peers=("plain", "graph"), frozen=False, full_peers=(), targets={})
        case _:
            return None
    if case.method == "adagrad":  # torch's cannot be captured
        peers = tuple(peer for peer in peers if peer != "torch_graph")
    return replace(case, peers=peers, full_peers=(), targets={})


def select(only: str | None = None, *, full: bool = False, smoke: bool = False, device: str = "cpu") -> list[AnyCase]:
    """Return the cases of a run, each once."""
    rows = CPU if device == "cpu" else [case for case in map(on_cuda, CPU) if case]
    cases: list[AnyCase] = [
        replace(case, peers=case.peers + case.full_peers * full)
        for case in rows
        if only in (None, case.group) and (full or not case.full)
    ]
    if smoke:
        cases = [case.small() for case in cases]
    return list({case.name: case for case in cases}.values())
