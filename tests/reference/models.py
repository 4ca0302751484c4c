"""T5 and BART from Hugging Face transformers with the cross-attention of the decoder swapped for a reference variant.

`attach(model, options)` turns a stock model into one with that variant; `options` is what config.json holds under
"cross_attention". Parameters that a variant adds keep the names of the authors' code:
SNN_kv.weight, leak, threshold (recurrence) and RNN_key.*, RNN_value.* (transformer_xl), inside the attention module.
"""
import torch
from torch import nn
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.t5.modeling_t5 import eager_attention_forward

import attention

DEFAULTS = dict(variant="full", segment_size=64, horizon=None, clamp=None, normalize=True, recurrence=True,
                local=True, product="complement", padding="masked", gate=False)


def _variant(module, q, k, v, bias, mask_tail):
    o = module.cross_options
    kind = o["variant"]
    if kind == "full":
        return attention.full(q, k, v, bias)
    if kind == "linear":
        return attention.linear(q, k, v)
    common = dict(size=o["segment_size"], horizon=module.cross_horizon or o["horizon"], mask_tail=mask_tail)
    if kind == "segmented_recurrent":
        return attention.segmented_recurrent(
            q, k, v, bias, weight=module.SNN_kv.weight, leak=module.leak, threshold=module.threshold,
            clamp=o["clamp"], normalize=o["normalize"], use_raf=o["recurrence"], use_segment=o["local"],
            product=o["product"], gate=module.gate if o["gate"] else None, **common)
    if kind == "transformer_xl":
        return attention.transformer_xl(q, k, v, bias, rnn_key=module.RNN_key, rnn_value=module.RNN_value, **common)
    return getattr(attention, kind)(q, k, v, bias, **common)


def reference_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, position_bias=None, **kw):
    if not hasattr(module, "cross_options"):
        return eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout, position_bias)
    q = query * (1.0 if scaling is None and position_bias is not None else scaling if scaling is not None else 1.0)
    if module.cross_options["padding"] == "masked":  # every example as if it stood alone, unpadded
        outs = []
        for b in range(q.shape[0]):
            n = key.shape[2]
            if attention_mask is not None:
                n = int((attention_mask[b].reshape(-1, attention_mask.shape[-1])[0] > -1).sum())
            outs.append(_variant(module, q[b : b + 1], key[b : b + 1, :, :n], value[b : b + 1, :, :n], None, True))
        out = torch.cat(outs, 0)
    else:  # the authors' code: padded keys enter the products; T5 adds the mask's segment, BART drops the mask
        bias = attention_mask if position_bias is not None else None
        out = _variant(module, q, key, value, bias, False)
    return out.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register("reference", reference_attention)
AttentionMaskInterface.register("reference", eager_mask)  # without this transformers passes no mask at all


def cross_attentions(model):
    if model.config.model_type == "t5":
        return [b.layer[1].EncDecAttention for b in model.decoder.block]
    return [l.encoder_attn for l in model.model.decoder.layers]


def attach(model, options):
    options = {**DEFAULTS, **options}
    t5 = model.config.model_type == "t5"
    model.set_attn_implementation("reference")
    for a in cross_attentions(model):
        d = a.key_value_proj_dim if t5 else a.head_dim
        inner = a.inner_dim if t5 else a.embed_dim
        a.cross_options, a.cross_horizon = options, None
        if t5:
            a.scaling = 1.0
        if options["variant"] == "segmented_recurrent":
            a.SNN_kv = nn.Linear(d, d, bias=False)
            a.threshold = nn.Parameter(0.1 * torch.ones(1))
            a.leak = nn.Parameter((0.1 if t5 else 0.5) * torch.ones(1))
            if options["gate"]:
                a.gate = nn.Parameter(torch.zeros(inner // d))
        if options["variant"] == "transformer_xl":
            a.RNN_key = nn.RNN(inner, inner, batch_first=True)
            a.RNN_value = nn.RNN(inner, inner, batch_first=True)
    model.config.cross_attention = options
    return model


def set_horizon(model, horizon):
    """Spread this many decoder steps over the segments (None: as many as the queries given)."""
    for a in cross_attentions(model):
        a.cross_horizon = horizon
