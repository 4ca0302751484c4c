R"python("""
# SPDX-License-Identifier: Apache-2.0
"""T5 and BART of transformers with the cross-attentions of srformer, for a folder that srformer has written:

    from transformers import AutoModelForSeq2SeqLM
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)

Everything but the decoder's cross-attention is transformers' own. Outside of generate() the steps of a decoder are spread
over the segments of a source by the option "horizon", as in training (null: by the number of queries), in generate() by
"generation_horizon". Padding of the sources has to be on the right. The products of segmented recurrent attention are made
again at every step of generate(), so that it costs more here than there.
"""
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration
from transformers.models.bart.modeling_bart import BartAttention
from transformers.models.t5.modeling_t5 import T5Attention

SEGMENTS = dict(segment_size=64, horizon=None, generation_horizon=128, padding="masked")
# The options of every variant, with their defaults.
OPTIONS = {
    "full": {},
    "segmented": SEGMENTS,
    "segmented_recurrent": dict(SEGMENTS, clamp=None, normalize=True, recurrence=True, local=True, product="complement",
                                advance="segment", sigma=False, gate=False, binary_firing=False,
                                average_products=False, soft_keys=None),
    "transformer_xl": SEGMENTS,
    "global_tokens": SEGMENTS,
    "linear": dict(padding="masked"),
}
CHOICES = dict(padding=("masked", "upstream"), product=("complement", "segment"), advance=("segment", "token"))


def options_of(config):
    """The options under "cross_attention" of a configuration, complete; NotImplementedError for what is not known here."""
    given = dict(getattr(config, "cross_attention", None) or {})
    variant = given.pop("variant", "full")
    if variant not in OPTIONS:
        raise NotImplementedError(f'cross_attention: variant "{variant}" is not one of {", ".join(OPTIONS)}')
    known = {name for options in OPTIONS.values() for name in options}
    for name, value in given.items():
        if name not in known:
            raise NotImplementedError(f'cross_attention: option "{name}" is not known here')
        if value not in CHOICES.get(name, (value,)):
            raise NotImplementedError(f'cross_attention: "{name}" is "{value}", not one of {", ".join(CHOICES[name])}')
    # A null of config.json is none, or the default.
    present = {name: value for name, value in given.items() if name in OPTIONS[variant] and value is not None}
    return dict(OPTIONS[variant], **present, variant=variant)


# ---- the attention of one source: q [H,M,D], k and v [H,N,D] --------------------------------------------------------


def attend(q, k, v, bias=None, dropout=0.0):
    """Softmax attention without scaling; bias [N] or nothing."""
    scores = q @ k.transpose(-1, -2)
    weights = (scores if bias is None else scores + bias).softmax(-1)
    return F.dropout(weights, dropout) @ v if dropout > 0 else weights @ v


class Segments:
    """Keys and values of a source cut into segments, and the segment that each query sees."""

    def __init__(self, k, v, bias, options, horizon, first_step, queries):
        self.size, self.keys = options["segment_size"], k.shape[1]
        self.count = max(1, -(-self.keys // self.size))
        self.whole = options["padding"] == "upstream"  # the last segment ends in zeros that count
        spare = self.count * self.size - self.keys
        self.k_padded, self.v_padded = F.pad(k, (0, 0, 0, spare)), F.pad(v, (0, 0, 0, spare))
        self.k, self.v = (self.k_padded, self.v_padded) if self.whole else (k, v)
        self.bias = None if bias is None else F.pad(bias, (0, spare))
        self.seen = [min(self.count - 1, i * self.count // horizon) for i in range(first_step + queries)]
        self.first_step = first_step

    def keys_of(self, j):
        return slice(j * self.size, (j + 1) * self.size)

    def bias_of(self, part):
        return None if self.bias is None else self.bias[part]

    def cut(self, padded):
        """[H,S,L,D]"""
        return padded.view(padded.shape[0], self.count, self.size, padded.shape[2])

    def by_segment(self, q, attention_of):
        """The rows of attention_of(queries of segment j, j) for all segments that are seen, in the order of the queries."""
        seen = torch.tensor(self.seen[self.first_step :], device=q.device)
        parts = [attention_of(q[:, seen == j], int(j)) for j in seen.unique()]
        return torch.cat(parts, 1)  # queries of one segment follow each other


def segmented(s, q, dropout):
    def one(q_of, j):
        part = s.keys_of(j)
        return attend(q_of, s.k[:, part], s.v[:, part], s.bias_of(part), dropout)

    return s.by_segment(q, one)


def global_tokens(s, q, dropout):
    """The mean key and value of every segment stand behind those of the segment."""
    keys = torch.full((s.count, 1), s.size, device=q.device)
    if not s.whole:
        keys[-1] = max(1, s.keys - (s.count - 1) * s.size)
    mean_k, mean_v = s.cut(s.k_padded).sum(2) / keys, s.cut(s.v_padded).sum(2) / keys

    def one(q_of, j):
        part = s.keys_of(j)
        bias = None if s.bias is None else torch.cat((s.bias[part], s.bias[:: s.size]))
        k, v = torch.cat((s.k[:, part], mean_k), 1), torch.cat((s.v[:, part], mean_v), 1)
        return attend(q_of, k, v, bias, dropout)

    return s.by_segment(q, one)


def transformer_xl(s, q, dropout, rnn_key, rnn_value):
    """What an RNN makes of the segment before stands before the segment; segment 0 precedes itself."""

    def remember(x, rnn):
        heads, keys, size = x.shape
        out, _ = rnn(x.transpose(0, 1).reshape(1, keys, heads * size))
        return out.view(keys, heads, size).transpose(0, 1)

    memory_k, memory_v = remember(s.k, rnn_key), remember(s.v, rnn_value)

    def one(q_of, j):
        before, part = s.keys_of(max(0, j - 1)), s.keys_of(j)
        bias = None if s.bias is None else torch.cat((s.bias[before], s.bias[part]))
        k = torch.cat((memory_k[:, before], s.k[:, part]), 1)
        v = torch.cat((memory_v[:, before], s.v[:, part]), 1)
        return attend(q_of, k, v, bias, dropout)

    return s.by_segment(q, one)


def fire(u, binary):
    """max(u, 0), or [u > 0] with the gradient 0.3 max(0, 1 - |u|)."""
    if not binary:
        return u.relu()
    near = u.clamp(-1, 1)
    soft = 0.3 * (near - near * near.abs() / 2)
    return (u > 0).to(u.dtype) + soft - soft.detach()


def recurrent_states(s, options, learned):
    """R of every query [M,H,D,D]: what the products of the other segments leave after the recurrence."""
    keys = s.k_padded
    if options["soft_keys"]:  # a softmax over the keys that there are, not over those that fill the last segment
        keys = F.pad((options["soft_keys"] * keys[:, : s.keys]).softmax(1), (0, 0, 0, keys.shape[1] - s.keys))
    products = s.cut(keys).transpose(-1, -2) @ s.cut(s.v_padded)  # [H,S,D,D]
    clamp = options["clamp"]
    own = products if clamp is None else products.clamp(-clamp, clamp)
    if options["product"] == "segment":
        z = own
    elif clamp is None:  # a sum of the others, not a difference, which would lose digits
        after = products.flip(1).cumsum(1).flip(1)
        z = F.pad(products.cumsum(1)[:, :-1], (0, 0, 0, 0, 1, 0)) + F.pad(after[:, 1:], (0, 0, 0, 0, 0, 1))
    else:
        z = products.sum(1, keepdim=True).clamp(-clamp, clamp) - own
    if options["average_products"]:
        z = z / max(1, s.keys)
    if not options["recurrence"]:
        return torch.stack([z[:, j] for j in s.seen[s.first_step :]])
    membrane, state, last, states = torch.zeros_like(z[:, 0]), None, None, []
    for j in s.seen:
        if j != last or options["advance"] == "token":
            potential = learned.leak * membrane + learned.SNN_kv(z[:, j])
            u = potential / learned.threshold - 1
            state = fire(u, options["binary_firing"])
            membrane = potential - learned.threshold * (u > 0).to(u.dtype)
            last = j
        states.append(state)
    return torch.stack(states[s.first_step :])


def segmented_recurrent(s, q, dropout, options, learned):
    rest = torch.einsum("hmd,mhde->hme", q, recurrent_states(s, options, learned))
    if options["normalize"] and not options["soft_keys"]:
        norm = s.k_padded.norm(dim=1, keepdim=True)
        if options["average_products"]:
            norm = norm / max(1, s.keys) ** 0.5
        rest = torch.where(norm > 0, rest / norm, 0)
    if options["gate"]:
        rest = rest * learned.gate.view(-1, 1, 1)
    if not options["local"]:
        return rest
    local = segmented(s, q, dropout)
    return learned.sigma * local + (1 - learned.sigma) * rest if options["sigma"] else local + rest


def linear(q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    return (q @ (k.transpose(-1, -2) @ v)) / ((q * k.sum(1, keepdim=True)).sum(-1, keepdim=True) + 1e-6)


# ---- the cross-attention of a layer ---------------------------------------------------------------------------------


class Sources:
    """What the layers of a model have to know of the batch at hand."""

    lengths = None  # of the sources, without padding; None: there is no padding
    generating = False

    def note(self, model, args, kwargs):
        """Before each forward."""
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        self.lengths = None
        if mask is None:
            return
        lengths = mask.ne(0).sum(1)
        if not torch.equal(mask.ne(0), torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]):
            raise ValueError("attention_mask: a source has to be padded on the right alone")
        self.lengths = lengths.tolist()


class VariantAttention:
    """Takes the place of the attention of a class whose projections it uses."""

    def add_variant(self, options, sources, heads, head_size, mask_pads):
        """mask_pads: what padding "upstream" does with padded keys, a most negative number on their scores or nothing."""
        self.options, self.sources, self.heads, self.head_size = options, sources, heads, head_size
        self.mask_pads = mask_pads
        if options["variant"] == "segmented_recurrent":
            self.SNN_kv = nn.Linear(head_size, head_size, bias=False)
            self.leak = nn.Parameter(torch.full((1,), 0.1 if mask_pads else 0.5))
            self.threshold = nn.Parameter(torch.full((1,), 0.1))
            if options["sigma"]:
                self.sigma = nn.Parameter(torch.full((1,), 0.5))
            if options["gate"]:
                self.gate = nn.Parameter(torch.zeros(heads))
        if options["variant"] == "transformer_xl":
            self.RNN_key = nn.RNN(heads * head_size, heads * head_size, batch_first=True)
            self.RNN_value = nn.RNN(heads * head_size, heads * head_size, batch_first=True)

    def horizon(self, first_step, queries):
        if self.sources.generating:
            return self.options.get("generation_horizon", 0)
        horizon = self.options.get("horizon", 0)
        if horizon is None and first_step > 0:
            raise ValueError('cross_attention: "horizon" is null; set it to decode step by step, or call generate()')
        return horizon or queries

    def of_one_source(self, q, k, v, bias, horizon, first_step):
        variant, dropout = self.options["variant"], self.dropout if self.training else 0.0
        if variant == "full":
            return attend(q, k, v, bias, dropout)
        if variant == "linear":
            return linear(q, k, v)
        s = Segments(k, v, bias, self.options, horizon, first_step, q.shape[1])
        if variant == "segmented_recurrent":
            return segmented_recurrent(s, q, dropout, self.options, self)
        if variant == "transformer_xl":
            return transformer_xl(s, q, dropout, self.RNN_key, self.RNN_value)
        return (global_tokens if variant == "global_tokens" else segmented)(s, q, dropout)

    def of_batch(self, q, k, v, first_step):
        """q [B,H,M,D]; k, v [B,H,N,D]; [B,M,H*D]"""
        width, horizon = k.shape[2], self.horizon(first_step, q.shape[2])
        outputs = []
        for b in range(q.shape[0]):
            length, bias, keys = self.sources.lengths[b] if self.sources.lengths else width, None, width
            if self.options.get("padding", "masked") == "masked":
                keys = length  # as if the source stood alone
            elif self.mask_pads:
                bias = torch.zeros(width, dtype=q.dtype, device=q.device)
                bias[length:] = torch.finfo(q.dtype).min
            outputs.append(self.of_one_source(q[b], k[b, :, :keys], v[b, :, :keys], bias, horizon, first_step))
        return torch.stack(outputs).transpose(1, 2).flatten(2)

    def split(self, x):
        return x.view(*x.shape[:2], self.heads, self.head_size).transpose(1, 2)

    def keys_and_values(self, project, cache):
        """From the cache of transformers, where they are there already."""
        if cache is not None and cache.is_updated.get(self.layer_idx):
            layer = cache.cross_attention_cache.layers[self.layer_idx]
            return layer.keys, layer.values
        k, v = project()
        if cache is not None:
            k, v = cache.cross_attention_cache.update(k, v, self.layer_idx)
            cache.is_updated[self.layer_idx] = True
        return k, v

    def attention_to_sources(self, q, project, kwargs):
        given = (kwargs.get(name) for name in ("cache", "past_key_values", "past_key_value"))
        cache = next((c for c in given if c is not None), None)
        k, v = self.keys_and_values(project, cache)
        first_step = 0
        if cache is not None:  # self-attention has put the steps at hand into its own already
            first_step = int(cache.self_attention_cache.get_seq_length(self.layer_idx)) - q.shape[2]
        return self.of_batch(q, k, v, first_step)


class SrformerT5Attention(VariantAttention, T5Attention):
    def __init__(self, config, options, sources, layer_idx):
        T5Attention.__init__(self, config, has_relative_attention_bias=False, layer_idx=layer_idx)
        self.add_variant(options, sources, config.num_heads, config.d_kv, True)

    def forward(self, hidden_states, mask=None, key_value_states=None, position_bias=None, **kwargs):
        def project():
            return self.split(self.k(key_value_states)), self.split(self.v(key_value_states))

        out = self.attention_to_sources(self.split(self.q(hidden_states)), project, kwargs)
        return self.o(out), position_bias, None


class SrformerBartAttention(VariantAttention, BartAttention):
    def __init__(self, config, options, sources, layer_idx):
        heads = config.decoder_attention_heads
        BartAttention.__init__(self, config.d_model, heads, dropout=config.attention_dropout, is_decoder=True,
                               config=config, layer_idx=layer_idx)
        self.add_variant(options, sources, heads, config.d_model // heads, False)

    def forward(self, hidden_states, key_value_states=None, **kwargs):
        def project():
            return self.split(self.k_proj(key_value_states)), self.split(self.v_proj(key_value_states))

        q = self.split(self.q_proj(hidden_states) * self.scaling)
        return self.out_proj(self.attention_to_sources(q, project, kwargs)), None


# ---- the models -----------------------------------------------------------------------------------------------------


class SrformerT5Config(T5Config):
    model_type = "srformer_t5"


class SrformerBartConfig(BartConfig):
    model_type = "srformer_bart"


class VariantModel:
    def add_variant(self):
        self.sources = Sources()
        self.register_forward_pre_hook(self.sources.note, with_kwargs=True)

    def generate(self, *args, **kwargs):
        self.sources.generating = True
        try:
            return super().generate(*args, **kwargs)
        finally:
            self.sources.generating = False


class SrformerT5ForConditionalGeneration(VariantModel, T5ForConditionalGeneration):
    config_class = SrformerT5Config

    def __init__(self, config):
        super().__init__(config)
        self.add_variant()
        for i, block in enumerate(self.decoder.block):
            attention = SrformerT5Attention(self.decoder.config, options_of(config), self.sources, i)
            block.layer[1].EncDecAttention = attention


class SrformerBartForConditionalGeneration(VariantModel, BartForConditionalGeneration):
    config_class = SrformerBartConfig

    def __init__(self, config):
        super().__init__(config)
        self.add_variant()
        for i, layer in enumerate(self.model.decoder.layers):
            layer.encoder_attn = SrformerBartAttention(config, options_of(config), self.sources, i)
# )python"
