"""Retention policies: what each layer keeps when its cache is full. `base` has the contract, `registry` the names.

One method enters, one file each, and knows the contract and `parts/`, what methods share. Policies made of other policies
are in `combine/`. None of them knows of models, caches or sessions.
"""

from __future__ import annotations

from hermes_lab.policies.base import LayerView, Merged, Need, Policy, ReadPlan, Scores
from hermes_lab.policies.registry import (
    PolicyInfo,
    from_config,
    get,
    info,
    names,
    policy_class,
    problems,
    register,
    unregister,
)
from hermes_lab.policies.settings import FieldInfo, setting
from hermes_lab.policies.traits import computed

__all__ = [
    "FieldInfo",
    "LayerView",
    "Merged",
    "Need",
    "Policy",
    "PolicyInfo",
    "ReadPlan",
    "Scores",
    "computed",
    "from_config",
    "get",
    "info",
    "names",
    "policy_class",
    "problems",
    "register",
    "setting",
    "unregister",
]
