"""A peer is a process that answers every line of its input with one line of JSON, a round."""
import json
import sys


def job():
    """What the peer was started to do: the first argument, a JSON object."""
    return json.loads(sys.argv[1])


def serve(one_round):
    for _ in sys.stdin:
        print(json.dumps(one_round()), flush=True)
