#!/usr/bin/env python3
"""Prints which cores and memory one rank of a machine gets, as arguments of numactl(8).

    lscpu --parse=CPU,CORE,SOCKET,NODE | scripts/bind_rank.py --local-rank 1 --local-size 4 --cpus
    0-63 --memory 0-1

prints "--physcpubind=8-15,40-47 --membind=0" and, on a second line, the number of cores. If there
is nothing to bind, it prints nothing but one line on stderr with the reason. run_and_time.sh calls
it once per rank; every rank computes the complete plan from the same topology, so ranks need not
communicate.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from typing import Dict, List, Optional, Sequence, Set, Tuple

Core = Tuple[int, List[int]]  # NUMA node, CPU numbers: the hardware threads of one core


class Unbound(Exception):
    """There is nothing to bind; the text gives the reason."""


def parse_list(text: str) -> Set[int]:
    """{0, 1, 2, 8} of "0-2,8", as Linux writes CPU and node lists in /proc/self/status (cpuset(7));
    ValueError."""
    numbers: Set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def format_list(numbers) -> str:
    """The inverse of parse_list: "0-2,8"."""
    runs: List[List[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else "%d-%d" % (a, b) for a, b in runs)


def parse_cores(lscpu: str, allowed: Optional[Set[int]] = None) -> List[Core]:
    """The cores of `lscpu --parse=CPU,CORE,SOCKET,NODE` that this process may use, ordered by node.

    Hardware threads of one core (SMT) stay together. ValueError for text that lscpu does not write;
    Unbound where the machine has no NUMA nodes at all.
    """
    cores: Dict[Tuple[int, int, int], List[int]] = defaultdict(list)
    for line in lscpu.splitlines():
        if not line or line.startswith("#"):
            continue
        cpu, core, socket, node = line.split(",")[:4]
        if not node:
            raise Unbound("the machine has no NUMA nodes")
        if allowed is None or int(cpu) in allowed:
            cores[int(node), int(socket or 0), int(core)].append(int(cpu))
    return [(key[0], sorted(cpus)) for key, cpus in sorted(cores.items())]


def plan(
    cores: Sequence[Core], ranks: int, gpu_nodes: Optional[Sequence[int]] = None
) -> List[List[Core]]:
    """The cores of each local rank.

    gpu_nodes: the NUMA node of each rank's GPU: each rank then runs on its GPU's node. Otherwise
    ranks are spread so that the rank with the fewest cores gets as many as possible, neighbouring
    ranks on the same node. The ranks of a node divide its cores, or all use all of them if there
    are more ranks than cores. With fewer ranks than nodes, each rank gets several entire nodes.
    Raises Unbound if there is only one node: the kernel needs no help there.
    """
    by_node: Dict[int, List[Core]] = defaultdict(list)
    for core in cores:
        by_node[core[0]].append(core)
    nodes = sorted(by_node)
    if len(nodes) < 2:
        raise Unbound("all its cores are in one NUMA node")
    if gpu_nodes is not None and len(gpu_nodes) >= ranks and set(gpu_nodes[:ranks]) <= set(nodes):
        node_of = list(gpu_nodes[:ranks])
    elif ranks < len(nodes):
        return [
            [
                core
                for node in nodes[rank * len(nodes) // ranks : (rank + 1) * len(nodes) // ranks]
                for core in by_node[node]
            ]
            for rank in range(ranks)
        ]
    else:
        count = dict.fromkeys(nodes, 0)
        for _ in range(ranks):
            best = max(
                nodes,
                key=lambda node: (len(by_node[node]) // (count[node] + 1), -count[node], -node),
            )
            count[best] += 1
        node_of = [node for node in nodes for _ in range(count[node])]
    shares = []
    for rank, node in enumerate(node_of):
        index, sharing, all_cores = node_of[:rank].count(node), node_of.count(node), by_node[node]
        share = all_cores[
            index * len(all_cores) // sharing : (index + 1) * len(all_cores) // sharing
        ]
        shares.append(share if sharing <= len(all_cores) else all_cores)
    return shares


def numactl_arguments(share: Sequence[Core], memory: Optional[Set[int]] = None) -> List[str]:
    """["--physcpubind=...", "--membind=..."]; without --membind if the cpuset forbids a node's
    memory."""
    nodes = {node for node, _ in share}
    arguments = ["--physcpubind=" + format_list(cpu for _, cpus in share for cpu in cpus)]
    if memory is None or nodes <= memory:
        arguments.append("--membind=" + format_list(nodes))
    return arguments


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--local-rank", type=int, required=True, help="this rank's number on its machine, from 0"
    )
    parser.add_argument("--local-size", type=int, required=True, help="ranks on this machine")
    parser.add_argument(
        "--cpus", type=parse_list, help="CPUs that may be used: Cpus_allowed_list [default: all]"
    )
    parser.add_argument(
        "--memory", type=parse_list, help="nodes whose memory may be used: Mems_allowed_list"
    )
    parser.add_argument(
        "--gpu-nodes", default="", help="NUMA node of each GPU, in the order of the ranks: 0,0,1,1"
    )
    args = parser.parse_args(argv)
    if not 0 <= args.local_rank < args.local_size:
        parser.error("--local-rank %d of --local-size %d" % (args.local_rank, args.local_size))
    try:
        gpu_nodes = [int(node) for node in args.gpu_nodes.split(",") if node]
        share = plan(parse_cores(sys.stdin.read(), args.cpus), args.local_size, gpu_nodes or None)[
            args.local_rank
        ]
    except Unbound as reason:
        print(reason, file=sys.stderr)
        return 0
    except ValueError as error:
        print(f"the topology cannot be read: {error}", file=sys.stderr)
        return 0
    print(*numactl_arguments(share, args.memory))
    print(len(share))
    return 0


if __name__ == "__main__":
    sys.exit(main())
