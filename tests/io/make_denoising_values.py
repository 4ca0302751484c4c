"""Writes data/denoising.json: span corruption and text infilling as T5's and BART's own code has them, and batches that
training takes of texts.

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

    def substream(self, use):
        z = (self.stream * 0x9E3779B97F4A7C15 + use + 0x632BE59BD9B4E019) & M64
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M64
        return Numbers(self.key, z ^ (z >> 31))

    def at(self, index):
        self.next = index
        return self


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


def words_of(tokens, beginnings):
    """The words of a text; without `beginnings` every token is one."""
    words = []
    for i, token in enumerate(tokens):
        if i == 0 or not beginnings or token >= len(beginnings) or beginnings[token]:
            words.append([])
        words[-1].append(token)
    return words


def text_infilling(tokens, o, numbers):
    order = list(tokens)
    if o["permute_sentences"]:
        sentences = [[]]
        for i, token in enumerate(tokens):
            sentences[-1].append(token)
            if token in o["sentence_ends"] and i + 1 < len(tokens):
                sentences.append([])
        order = [t for s in numbers.shuffle(sentences) for t in s]
    order = words_of(order, o["word_beginnings"])
    length = len(order)
    out = math.ceil(length * o["density"])
    spans = []
    while sum(spans) < out:
        mean = o["mean_span_length"]
        drawn = 1 + numbers.below(2 * int(mean) - 1) if o["uniform"] else poisson(mean, numbers.uniform())
        left = out - sum(spans)
        spans.append(left if len(spans) == min(length - out, out) else min(drawn, left))
    places = numbers.shuffle(spans + [None] * (length - out + 1 - len(spans)))
    source, at = [], 0
    for i, span in enumerate(places):
        if i > 0:
            source += order[at]
            at += 1
        if span is not None:
            source.append(o["mark"])
            at += span
    assert at == length
    target = [t for w in words_of(tokens, o["word_beginnings"])[: o["target_length"] or None] for t in w]
    if o["max_target_ids"]:
        target = target[: o["max_target_ids"] - 1 - len(o["prefix"])]
    return o["prefix"] + source + [1], o["prefix"] + target + [1]


def make(tokens, o, numbers):
    return (span_corruption if "first_sentinel" in o else text_infilling)(tokens, o, numbers)


def windows_of(texts, max_ids, concatenate):
    """The texts one after the other, cut every max_ids tokens, as T5's reduce_concat_tokens and split_tokens do."""
    runs = [[t for text in texts for t in text]] if concatenate else texts
    return [run[i : i + max_ids] for run in runs for i in range(0, len(run), max_ids)]


def batch(windows, o, seed, epoch, size, number):
    """Batch `number` of an epoch: source and labels, padded."""
    order = list(range(len(windows)))
    random = Numbers(seed, 0).substream(epoch)
    for i in range(len(order) - 1, 0, -1):
        j = random.at(i).below(i + 1)
        order[i], order[j] = order[j], order[i]
    masks = Numbers(seed, 3).substream(epoch)
    rows = [make(windows[i], o, masks.substream(i)) for i in order[number * size : (number + 1) * size]]

    def padded(columns, pad):
        return [t for c in columns for t in c + [pad] * (max(map(len, columns)) - len(c))]

    return {"source_ids": padded([s for s, _ in rows], 0), "source_lengths": [len(s) for s, _ in rows],
            "labels": padded([t for _, t in rows], -100)}


def batches(pick):
    made = []
    for n in range(12):
        texts = [[5 + pick.below(40) for _ in range(2 + pick.below([5, 40, 90][n % 3]))] for _ in range(9)]
        o = ({"density": 0.15, "mean_span_length": 3.0, "first_sentinel": 199} if n % 2 == 0 else
             {"density": 0.3, "mean_span_length": 2.0, "uniform": n % 4 == 1, "mark": 4, "prefix": [0],
              "target_length": [0, 7][n % 5 == 1], "max_target_ids": 0, "permute_sentences": n % 3 == 0,
              "sentence_ends": [7, 11], "word_beginnings": []})
        c = {"texts": texts, "options": o, "max_ids": [16, 40][pick.below(2)], "concatenate": n % 6 < 4, "seed": n,
             "epoch": n % 4, "size": 3}
        windows = [w for w in windows_of(texts, c["max_ids"], c["concatenate"]) if len(w) > 1]
        c["number"] = pick.below((len(windows) + 2) // 3)
        made.append(c | batch(windows, o, c["seed"], c["epoch"], c["size"], c["number"]))
    return made


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
        else:
            o.update(uniform=o["mean_span_length"] != 3.5 and pick.below(2) == 1, mark=4, prefix=[[], [0]][pick.below(2)],
                     target_length=[0, 1, 40][pick.below(3)], permute_sentences=pick.below(2) == 1,
                     sentence_ends=[7, 11], max_target_ids=[0, 0, 9][pick.below(3)],
                     word_beginnings=[pick.below(3) == 0 for _ in range(40)] if pick.below(2) else [])
        source, target = make(tokens, o, numbers)
        cases.append({"seed": n, "stream": stream, "text": tokens, "options": o, "source": source, "target": target})
    lengths = [[s, d, m, *corruption_lengths(s, d, m)]
               for s in (4, 5, 64, 512, 1024) for d in (0.15, 0.5) for m in (1.0, 3.0)]
    with open(path, "w") as file:
        json.dump({"cases": cases, "lengths": lengths, "batches": batches(pick)}, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
