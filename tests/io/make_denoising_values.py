"""Writes data/denoising.json: span corruption and text infilling as T5's and BART's own code has them.

    python tests/io/make_denoising_values.py tests/io/data/denoising.json

Masks are made as in t5/data/preprocessors.py (random_spans_noise_mask, noise_span_to_unique_sentinel and
nonnoise_span_to_unique_sentinel), and the lengths as compute_input_and_target_lengths of transformers has them; what
numpy would shuffle is shuffled by the numbers of core/random.hpp, written anew here. Needs no package.
"""
import json
import math
import sys

M64 = (1 << 64) - 1


class Numbers:
    def __init__(self, key, stream):
        self.key, self.stream, self.next = key, stream, 0

    def words(self):
        c = [self.next & 0xFFFFFFFF, self.next >> 32, self.stream & 0xFFFFFFFF, self.stream >> 32]
        k = [self.key & 0xFFFFFFFF, self.key >> 32]
        self.next += 1
        for _ in range(10):
            p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [(q >> 32) ^ c[1] ^ k[0], q & 0xFFFFFFFF, (p >> 32) ^ c[3] ^ k[1], p & 0xFFFFFFFF]
            k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
        return c

    def below(self, bound):
        c = self.words()
        return ((c[0] << 32 | c[1]) * bound) >> 64

    def uniform(self):
        c = self.words()
        return ((c[0] << 32 | c[1]) >> 11) * 2.0**-53

    def shuffle(self, x):
        for i in range(len(x) - 1, 0, -1):
            j = self.below(i + 1)
            x[i], x[j] = x[j], x[i]
        return x


def random_segmentation(numbers, items, segments):
    first = [0] + numbers.shuffle([1] * (segments - 1) + [0] * (items - segments))
    lengths, segment = [0] * segments, 0
    for starts in first:
        segment += starts
        lengths[segment] += 1
    return lengths


def noise_counts(length, density, mean):
    tokens = min(max(round(length * density), 1), length - 1)
    return tokens, max(min(max(round(tokens / mean), 1), tokens, length - tokens), 1)


def noise_mask(numbers, length, density, mean):
    tokens, spans = noise_counts(length, density, mean)
    noise = random_segmentation(numbers, tokens, spans)
    kept = random_segmentation(numbers, length - tokens, spans)
    mask = []
    for k, n in zip(kept, noise):
        mask += [False] * k + [True] * n
    return mask


def to_sentinels(tokens, mask, first_sentinel):
    """Every run of the mask becomes a sentinel of its own."""
    out, spans = [], 0
    for i, token in enumerate(tokens):
        if not mask[i]:
            out.append(token)
        elif i == 0 or not mask[i - 1]:
            out.append(first_sentinel - spans)
            spans += 1
    return out


def span_corruption(tokens, o, numbers):
    mask = noise_mask(numbers, len(tokens), o["density"], o["mean_span_length"])
    return (to_sentinels(tokens, mask, o["first_sentinel"]) + [1],
            to_sentinels(tokens, [not m for m in mask], o["first_sentinel"]) + [1])


def corruption_lengths(source_length, density, mean):
    def of(tokens_length):
        noise, spans = noise_counts(tokens_length, density, mean)
        return tokens_length - noise + spans + 1, noise + spans + 1

    length = 2
    while of(length + 1)[0] <= source_length:
        length += 1
    return [length, *of(length)]


def poisson(mean, u):
    k, p = 0, math.exp(-mean)
    total = p
    while u >= total and p > 0:
        k += 1
        p *= mean / k
        total += p
    return k


def text_infilling(tokens, o, numbers):
    length, order = len(tokens), list(tokens)
    if o["permute_sentences"]:
        sentences = [[]]
        for i, token in enumerate(tokens):
            sentences[-1].append(token)
            if token in o["sentence_ends"] and i + 1 < length:
                sentences.append([])
        order = [t for s in numbers.shuffle(sentences) for t in s]
    out = math.ceil(length * o["density"])
    spans = []
    while sum(spans) < out:
        mean = o["mean_span_length"]
        drawn = 1 + numbers.below(2 * int(mean) - 1) if o["uniform"] else poisson(mean, numbers.uniform())
        left = out - sum(spans)
        spans.append(left if len(spans) == length - out else min(drawn, left))
    places = numbers.shuffle(spans + [None] * (length - out + 1 - len(spans)))
    source, at = [], 0
    for i, span in enumerate(places):
        if i > 0:
            source.append(order[at])
            at += 1
        if span is not None:
            source.append(o["mark"])
            at += span
    assert at == length
    target = tokens[: o["target_length"] or length]
    return o["prefix"] + source + [1], o["prefix"] + target + [1]


def main(path):
    pick = Numbers(2024, 7)
    cases = []
    for n in range(120):
        length = 2 + pick.below([3, 12, 60, 200][n % 4])
        tokens = [5 + pick.below(40) for _ in range(length)]
        o = {"density": [0.15, 0.3, 0.5, 0.08, 0.9][pick.below(5)],
             "mean_span_length": [3.0, 1.0, 2.0, 3.5][pick.below(4)]}
        stream = pick.below(1 << 60)
        numbers = Numbers(n, stream)
        if n % 3 == 0:
            o["first_sentinel"] = 31999
            source, target = span_corruption(tokens, o, numbers)
        else:
            o.update(uniform=o["mean_span_length"] != 3.5 and pick.below(2) == 1, mark=4, prefix=[[], [0]][pick.below(2)],
                     target_length=[0, 1, 40][pick.below(3)], permute_sentences=pick.below(2) == 1,
                     sentence_ends=[7, 11])
            source, target = text_infilling(tokens, o, numbers)
        cases.append({"seed": n, "stream": stream, "text": tokens, "options": o, "source": source, "target": target})
    lengths = [[s, d, m, *corruption_lengths(s, d, m)]
               for s in (4, 5, 64, 512, 1024) for d in (0.15, 0.5) for m in (1.0, 3.0)]
    with open(path, "w") as file:
        json.dump({"cases": cases, "lengths": lengths}, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
