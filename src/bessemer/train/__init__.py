"""Moves weights: one loop that can be read top to bottom, and the parts it is made of.

    loop         a run, from its folder to its model: start here
    network      what is trained, before its first step     output      and what is left of it
    opening      a run before its first step                task        what an objective gives
    objectives   one file each                              batch       rows as tensors
    gradient     a step's gradient, in one of two orders    loss        on chunks of the head
    attention    packed documents in blocks                 balancing   of experts
    weights      masters and their rounded copies           optimizer   with `muon`, `schedule`
    guard        is a step fit to be taken?                 precision   what is fast here
    checkpoint   whole or not there: `storage` writes,      memory      will it fit?
                 `resuming` says of what
    reference, teacher, rollouts, rewards, sample           what objectives ask networks for
    scoring      the trainer's own log-probabilities        planning    what a run will take

What a recipe may say is in `core`, what is learned from in `data`. `memory` needs no torch.
"""

__all__ = ["loop", "memory", "planning", "precision", "reference", "scoring"]
