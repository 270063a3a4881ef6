"""Where the processes of a run meet: read from the environment, and handed to torchrun."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from quantctl.errors import QuantctlError
from quantctl.launch import slurm
from quantctl.launch.settings import number, shown

_PORT = 29500
"""torchrun's own default."""
_LAST_PORT = 65535
_TORCHRUNS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
"""What torchrun sets for the processes that it starts; a leftover that is no number would stop them later."""
_HOST = re.compile(r"[\w.:%\[\]-]+", re.ASCII)


@dataclass(frozen=True)
class Rendezvous:
    """The machines of a run, and this one's place among them."""

    nodes: int
    node_rank: int
    address: str | None
    """Host of node 0; None when one node needs no agreed place."""
    port: int | None

    def torchrun(self, processes: int) -> list[str]:
        """torchrun's options on this node; torchrun itself is torch.distributed.run."""
        options = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        if self.nodes == 1 and self.port is None:
            # a free port, so that several runs fit on a machine
            return [*options, "--standalone"]
        meet = ["--master-addr", str(self.address), "--master-port", str(self.port)]
        if self.nodes == 1:
            return [*options, *meet]
        return [*options, "--nnodes", str(self.nodes), "--node-rank", str(self.node_rank), *meet]


def _slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """What a Slurm job says, in the scripts' own names: of the step where srun started us, else of the job."""
    job = environment.get("SLURM_JOB_ID")
    if job is None:
        return {}
    step = slurm.in_step(environment)
    nodes = environment.get("SLURM_STEP_NUM_NODES" if step else "SLURM_JOB_NUM_NODES", "1")
    if step and environment.get("SLURM_STEP_NUM_TASKS", nodes) != nodes:
        raise QuantctlError(
            f"srun started {environment['SLURM_STEP_NUM_TASKS']} tasks on {nodes} nodes",
            "start one a node (--ntasks-per-node=1): torchrun starts a process for each GPU",
        )
    found = {"NNODES": nodes, "NODE_RANK": environment.get("SLURM_NODEID", "0") if step else "0"}
    if nodes == "1":
        return found
    found["MASTER_PORT"] = str(slurm.port(int(job)))
    if "MASTER_ADDR" not in environment:
        name = "SLURM_STEP_NODELIST" if step else "SLURM_JOB_NODELIST"
        if name not in environment:
            raise QuantctlError(f"{nodes} nodes of a Slurm job and no {name}", "Slurm sets it: do not unset it")
        found["MASTER_ADDR"] = slurm.first_host(environment[name])
    return found


def read(environment: Mapping[str, str]) -> Rendezvous:
    """NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT; in a Slurm job those that are not set come from Slurm.

    Among srun's tasks the first two are Slurm's always: a batch script that exports them says the same to all nodes.
    Raises QuantctlError for values that are no numbers, and for several nodes without an address.
    """
    given = {name: value for name, value in environment.items() if value}
    if "SLURM_JOB_ID" in given:
        slurm.require_numbers(given)
    found = _slurm(given)
    merged = found | given
    if slurm.in_step(given):
        merged |= {name: found[name] for name in ("NNODES", "NODE_RANK")}
    nodes = number(merged, "NNODES", 1, 1)
    node_rank = number(merged, "NODE_RANK", 0, 0)
    if node_rank >= nodes:
        raise QuantctlError(f"NODE_RANK={node_rank} of NNODES={nodes}", "node ranks count from 0")
    for name in _TORCHRUNS:
        number(merged, name, 0, 0)
    address = merged.get("MASTER_ADDR")
    if address is not None and not _HOST.fullmatch(address):
        raise QuantctlError(f"MASTER_ADDR={shown(address)} is no host name or address", "give that of the first node")
    if nodes > 1 and address is None:
        raise QuantctlError(f"NNODES={nodes} and no MASTER_ADDR", "set it to the first node's host name, on all nodes")
    if nodes == 1 and "MASTER_PORT" not in merged:
        return Rendezvous(1, 0, None, None)
    return Rendezvous(nodes, node_rank, address or "localhost", number(merged, "MASTER_PORT", _PORT, 1, _LAST_PORT))
