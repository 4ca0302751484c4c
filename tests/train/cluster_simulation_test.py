#!/usr/bin/env python3
"""Holds bench/cluster_simulation.py to closed forms and to what must grow with what.

    python3 tests/train/cluster_simulation_test.py ROOT
"""
import dataclasses
import itertools
import math
import os
import subprocess
import sys
import unittest

sys.dont_write_bytecode = True
ROOT = os.path.abspath(sys.argv.pop(1))
sys.path.insert(0, os.path.join(ROOT, "bench"))
import cluster_simulation as simulation  # noqa: E402
from cluster_simulation import Setting, step  # noqa: E402

# A bucket of 1e6 bytes out of 8: eight buckets, ready every 0.025 s.
BASE = Setting(forward=0.1, backward=0.2, update=0.04, parameters=2e6, bandwidth=1e9, latency=1e-5, bucket=1e6)


def with_(**changes):
    return dataclasses.replace(BASE, **changes)


class ClosedForms(unittest.TestCase):
    def test_one_rank_exchanges_nothing(self):
        for zero, overlap, spread in itertools.product((0, 1), (True, False), (0.0, 0.3)):
            one = step(with_(zero=zero, overlap=overlap, spread=spread, accumulation=3), 1)
            self.assertAlmostEqual(one.seconds, 3 * 0.3 + 0.04)
            self.assertEqual((one.communication, one.waited, one.hidden), (0, 0, None))
            self.assertAlmostEqual(one.efficiency, 1)

    def test_two_ranks_without_overlap(self):
        for exchange in ("direct", "ring"):
            two = step(with_(overlap=False, exchange=exchange), 2)
            exchanged = 8 * 2 * (1e-5 + 0.5e6 / 1e9)  # eight buckets, there and back, half of each over the link
            self.assertAlmostEqual(two.communication, exchanged)
            self.assertAlmostEqual(two.waited, exchanged)
            self.assertAlmostEqual(two.seconds, 0.34 + exchanged)
            self.assertAlmostEqual(two.efficiency, 0.34 / (0.34 + exchanged))

    def test_two_ranks_of_which_only_the_last_bucket_shows(self):
        two = step(BASE, 2)
        self.assertAlmostEqual(two.waited, two.communication / 8)
        self.assertAlmostEqual(two.hidden, 7 / 8)

    def test_two_ranks_on_a_link_that_never_rests(self):
        slow = with_(bandwidth=1e7, latency=0.0)  # 0.1 s a bucket, ready every 0.025
        self.assertAlmostEqual(step(slow, 2).waited, 0.025 + 8 * 0.1 - 0.2)

    def test_gradients_that_are_late(self):
        two = step(with_(late=1.0), 2)
        self.assertAlmostEqual(two.waited, two.communication)
        half = step(with_(late=0.5, latency=0.0), 2)
        self.assertAlmostEqual(half.hidden, 3 / 8)  # the fourth is ready at the end as well

    def test_bandwidth_without_bound(self):
        for zero, ranks in itertools.product((0, 1), (1, 2, 64)):
            update = 0.04 / ranks if zero else 0.04
            fast = step(with_(bandwidth=math.inf, latency=0.0, zero=zero), ranks)
            self.assertAlmostEqual(fast.seconds, 0.3 + update)

    def test_zero_gathers_values_behind_the_update(self):
        two = step(with_(zero=1), 2)
        bucket = 1e-5 + 0.5e6 / 1e9
        self.assertAlmostEqual(two.communication, 16 * bucket)
        self.assertAlmostEqual(two.seconds, 0.3 + bucket + 0.02 + 8 * bucket)

    def test_memory(self):
        for ranks, zero in itertools.product((1, 2, 8), (0, 1)):
            state = 8 / (ranks if zero else 1)
            self.assertAlmostEqual(step(with_(zero=zero, activations=5e6), ranks).memory, 2e6 * (8 + state) + 5e6)

    def test_machines_of_several_ranks(self):
        machine = with_(ranks_per_machine=4, local_bandwidth=1e10, local_latency=0.0, latency=0.0, overlap=False)
        inside = 2 * 3 * (8e6 / 4) / 1e10
        self.assertAlmostEqual(step(machine, 4).communication, inside)
        direct = 2 * (3 * 1e6 / 1e10 + 4 * 4 * 1e6 / 1e9)  # 8 ranks: 4 of them send to 4 others over one link
        self.assertAlmostEqual(step(machine, 8).communication, direct)
        ring = 2 * 7 * 1e6 / 1e9
        self.assertAlmostEqual(step(dataclasses.replace(machine, exchange="ring"), 8).communication, ring)

    def test_the_slowest_of_several(self):
        self.assertEqual(simulation.largest_of(1), 0)
        for count, expected in ((2, 1 / math.sqrt(math.pi)), (3, 1.5 / math.sqrt(math.pi)), (10, 1.538753), (1000, 3.241436)):
            self.assertAlmostEqual(simulation.largest_of(count), expected, 5)
        two = step(with_(spread=0.1, accumulation=2), 2)
        self.assertAlmostEqual(two.straggling, 0.1 / math.sqrt(math.pi) * 0.6)
        self.assertAlmostEqual(two.seconds, step(with_(accumulation=2), 2).seconds + two.straggling)


class Monotony(unittest.TestCase):
    def test_more_ranks_take_longer_and_less_memory(self):
        for zero, exchange, here in itertools.product((0, 1), ("direct", "ring"), (1, 8)):
            setting = with_(zero=zero, exchange=exchange, ranks_per_machine=here, local_bandwidth=1e10, spread=0.05,
                            update=0.0)
            steps = [step(setting, ranks) for ranks in simulation.SIZES]
            for fewer, more in itertools.pairwise(steps):
                self.assertLessEqual(fewer.seconds, more.seconds)
                self.assertGreaterEqual(fewer.efficiency, more.efficiency)
                self.assertGreaterEqual(fewer.memory, more.memory)

    def test_what_costs_and_what_helps(self):
        for ranks, zero in itertools.product((2, 16, 1024), (0, 1)):
            def seconds(**changes):
                return step(with_(zero=zero, **changes), ranks).seconds
            times = [seconds(bandwidth=value) for value in (1e8, 1e9, 1e10)]
            self.assertEqual(times, sorted(times, reverse=True))
            for name, values in (("latency", (0, 1e-5, 1e-3)), ("spread", (0, 0.1, 0.2)), ("late", (0, 0.5, 1)),
                                 ("parameters", (1e6, 2e6, 4e6)), ("overlap", (True, False))):
                times = [seconds(**{name: value}) for value in values]
                self.assertEqual(times, sorted(times), name)

    def test_the_hidden_share_is_a_share(self):
        for ranks, zero, bandwidth, overlap in itertools.product((2, 3, 64), (0, 1), (1e6, 1e9), (True, False)):
            hidden = step(with_(zero=zero, bandwidth=bandwidth, overlap=overlap), ranks).hidden
            self.assertTrue(-1e-9 <= hidden <= 1)


class TheProgram(unittest.TestCase):
    def run_it(self, *flags):
        words = ["--forward", "0.1", "--backward", "0.2", "--update", "0.04", "--parameters", "2e6", "--bandwidth", "8",
                 "--latency", "10", "--bucket", "1"]
        return subprocess.run([sys.executable, os.path.join(ROOT, "bench/cluster_simulation.py"), *words, *flags],
                              capture_output=True, text=True)

    def test_units_and_table(self):
        done = self.run_it("--ranks", "1", "2")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        two = step(BASE, 2)
        self.assertEqual(done.stdout.splitlines()[-1],
                         f"| 2 | {two.seconds:.3f} | {two.communication:.3f} | 88 % | 0.000 | "
                         f"{100 * two.efficiency:.0f} % | 32 |")
        self.assertEqual(len(self.run_it().stdout.splitlines()), 2 + 11)

    def test_what_is_wrong_is_said_in_a_line(self):
        for flags, text in ((("--bandwidth", "0"), "bandwidth is not above 0"), (("--late", "2"), "late is not a share"),
                            (("--ranks", "0"), "there is no rank"), (("--latency", "-1"), "latency is below 0")):
            done = self.run_it(*flags)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertEqual(len(done.stderr.splitlines()), 1)
            self.assertIn(text, done.stderr)


if __name__ == "__main__":
    unittest.main()
