# SPDX-License-Identifier: Apache-2.0
"""What the tables and figures of the paper are made of here: data, models, systems and the runs of each."""
import dataclasses

# ROUGE-1 as the paper reports it, for T5-small on CNN/DailyMail.
PAPER = {"full": 41.60, "srformer": 39.39, "segmented": 33.31,
         "no_local": 36.86, "no_normalization": 36.77, "no_recurrence": 35.84, "own_product": 29.72}


class Stop(Exception):
    """Ends the program with its message."""


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set and how it is trained on: lengths in tokens, steps of `batch` examples."""
    name: str
    source: int
    target: int
    segment_size: int
    horizon: int
    steps: int
    batch: int
    rates: tuple = (1e-3, 2e-3, 4e-3)


DATA = {
    "debian": Data("debian", source=128, target=24, segment_size=16, horizon=12, steps=900, batch=32),
    "rfc": Data("rfc", source=1024, target=96, segment_size=64, horizon=80, steps=700, batch=8),
}
# Files of one's own.
OTHER = Data("own", source=1024, target=128, segment_size=64, horizon=128, steps=1000, batch=8)

# Flags of init_model, and the pretraining's steps of 32 windows.
MODELS = {
    "t5": (["--preset", "t5-tiny", "--d_model", "128", "--d_kv", "32", "--d_ff", "512", "--extra_ids", "1"], 4000, 4500),
    "bart": (["--preset", "bart-tiny", "--d_model", "128", "--encoder_ffn_dim", "512", "--decoder_ffn_dim", "512",
              "--max_position_embeddings", "1024"], 4000, 4500),
    "t5-larger": (["--preset", "t5-tiny", "--d_model", "256", "--d_kv", "32", "--num_heads", "8", "--d_ff", "1024",
                   "--num_layers", "4", "--num_decoder_layers", "4", "--extra_ids", "1"], 8000, 4000),
}

# name: title, flags of finetune. Those with segments get --segment_size and --horizon beside.
SYSTEMS = {
    "full": ("full attention", []),
    "srformer": ("SRformer, as the paper's", ["--cross_attention", "segmented_recurrent", "--gate", "false"]),
    "srformer_gate": ("SRformer with the gate", ["--cross_attention", "segmented_recurrent", "--gate", "true"]),
    "srformer_auto": ("SRformer, start measured",
                      ["--cross_attention", "segmented_recurrent", "--gate", "false"]),
    "srformer_soft": ("SRformer with soft keys",
                      ["--cross_attention", "segmented_recurrent", "--soft_keys", "4", "--gate", "true"]),
    "srformer_average": ("SRformer of averages, start measured",
                         ["--cross_attention", "segmented_recurrent", "--average_products", "true"]),
    "transformer_xl": ("Transformer-XL style", ["--cross_attention", "transformer_xl"]),
    "global_tokens": ("LongT5 style", ["--cross_attention", "global_tokens"]),
    "linear": ("linear attention", ["--cross_attention", "linear"]),
    "segmented": ("segmented", ["--cross_attention", "segmented"]),
}
# Systems that go through the segments at a quarter of the others' speed, so that queries see the first ones for longer, and
# what they are otherwise.
HORIZON4 = {f"{name}_horizon4": name for name in ("srformer_soft", "segmented")}
SYSTEMS |= {slower: (f"{SYSTEMS[name][0]}, four times the horizon", SYSTEMS[name][1]) for slower, name in HORIZON4.items()}
ABLATIONS = {
    "no_local": ("(I) without segmented attention", ["--local", "false"]),
    "no_normalization": ("(II) without normalization", ["--normalize", "false"]),
    "no_recurrence": ("(III) without RAF", ["--recurrence", "false"]),
    "own_product": ("(IV) the segment's own product", ["--product", "segment"]),
}
SYSTEMS |= {name: (title, ["--cross_attention", "segmented_recurrent", *flags])
            for name, (title, flags) in ABLATIONS.items()}
WITHOUT_SEGMENTS = {"full", "linear"}
# How large the recurrence's matrix is at the start of training, beside the authors': a tenth, or measured.
STARTS = {"srformer": "0.1", "srformer_gate": "0.1", "no_local": "0.1", "no_normalization": "0.1", "own_product": "0.1",
          "srformer_auto": "auto", "srformer_average": "auto"}


def horizon_of(system, horizon):
    """A system's own horizon, where that of the others is `horizon`."""
    return 4 * horizon if system in HORIZON4 else horizon


def flags_of(system, segment_size, horizon):
    """Flags of finetune and of count_operations that make a system's cross-attention, where the horizon of most is `horizon`."""
    _, flags = SYSTEMS[system]
    if system in WITHOUT_SEGMENTS:
        return flags
    own = str(horizon_of(system, horizon))
    return [*flags, "--segment_size", str(segment_size), "--horizon", own, "--generation_horizon", own]


COMMANDS = {
    "table2": (["full", "srformer", "srformer_auto", "srformer_soft", "transformer_xl", "global_tokens", "segmented",
                "srformer_soft_horizon4", "segmented_horizon4"], (None,)),
    "table3": (["srformer", *ABLATIONS], (None,)),
    "figure4": (["full", "srformer", "srformer_soft", "transformer_xl", "global_tokens", "segmented"], (8, 16, 64)),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One fine-tuning. `rate` None: to be chosen."""
    data: Data
    model: str
    system: str
    segment_size: int
    seed: int
    rate: float | None = None

    @property
    def group(self):
        """What runs of other rates and seeds have in common."""
        segments = "" if self.system in WITHOUT_SEGMENTS else f"-L{self.segment_size}"
        return f"{self.data.name}-{self.model}-{self.system}{segments}"

    @property
    def name(self):
        return f"{self.group}-rate{self.rate:g}-seed{self.seed}"

    @property
    def horizon(self):
        return horizon_of(self.system, self.data.horizon)

    def flags(self):
        start = ["--recurrence_init_scale", STARTS[self.system]] if self.system in STARTS else []
        return [*flags_of(self.system, self.segment_size, self.data.horizon), *start]


def runs_of(command, data, model, seeds, systems=None):
    """The runs of a table or figure, of its own systems or of those given, without rates; full attention once for all segment
    sizes."""
    names, sizes = COMMANDS[command]
    seen = set()
    for name in systems or names:
        for size in sizes:
            for seed in range(1, seeds + 1):
                run = Run(data, model, name, size or data.segment_size, seed)
                if (run.group, seed) not in seen:
                    seen.add((run.group, seed))
                    yield run
