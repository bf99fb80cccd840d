"""What the command line and a supervisor say to each other, beside the guest's protocol, which is passed on.

On the control socket, as requests of the same protocol:

    sandbox_status  {}                 -> the state, the guest's own word on it, and what egress there was
    sandbox_wait    {ssh?: true}       -> {} once it is ready (and ssh leads in); refused if it never will be
    sandbox_down    {grace, force}     -> {how} once nothing of it is left
    sandbox_differ  {job}              -> {changes}: what another job would change
    sandbox_apply   {job}              -> {changes}: what was changed; refused if any of it needs a new start

And on the socket pair that a supervisor is born with: one line with the job, then lines with events until it is ready.
"""

from __future__ import annotations

STATUS, WAIT, DOWN = "sandbox_status", "sandbox_wait", "sandbox_down"
DIFFER, APPLY = "sandbox_differ", "sandbox_apply"
LOCAL = (STATUS, WAIT, DOWN, DIFFER, APPLY)

STARTING = "the sandbox is still starting"
"""What everything that is for the guest is refused with until that can be spoken to."""

# Events: {"event": PHASE, "phase": text}, {"event": NOTE, "text": ...}, {"event": READY, ...}, {"event": FAILED, ...}
PHASE, NOTE, READY, FAILED, TAKEN = "phase", "note", "ready", "failed", "taken"

BOOT, PROVISION, AGENTS = "boot", "provision", "agents"
PHASES = {
    BOOT: ("Booting", "Booted"),
    PROVISION: ("Handing over configuration, secrets and shares", "Handed over configuration, secrets and shares"),
    AGENTS: ("Starting agents", "Agents started"),
}
"""What a start goes through, in order, and how it is told to people."""
