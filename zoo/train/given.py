"""What a command line gives as `key=value`: a model's options, and which fragment is which task."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from zoo.configs import SUFFIXES, config_path, list_configs

_EACH = "fragment"
_EXPONENT = re.compile(r"[+-]?\d+e[+-]?\d+", re.IGNORECASE)  # YAML 1.1 asks for a point in a number such as 1e-3


def read_pairs(given: Sequence[str], option: str) -> dict[str, Any]:
    """`key=value` words, and YAML files of `key: value` lines, as one mapping; later ones win. Values are read as YAML:
    numbers, true, null, [1, 2].

    Raises:
        FileNotFoundError, ValueError: no such file; a word without `=`, or what is not YAML; `option` is named.
    """
    found: dict[str, Any] = {}
    for word in given:
        key, equals, value = word.partition("=")
        try:
            if not equals and Path(word).suffix in SUFFIXES:
                content = yaml.safe_load(Path(word).read_text(encoding="utf-8")) or {}
                if not isinstance(content, dict) or not all(isinstance(name, str | int) for name in content):
                    raise ValueError(f"{option} {word}: expected lines of `key: value`")
                found |= {str(name): value for name, value in content.items()}
                continue
            if not equals or not key:
                raise ValueError(f"{option}: got {word!r}; give key=value, or a YAML file of `key: value` lines")
            found[key] = float(value) if _EXPONENT.fullmatch(value) else yaml.safe_load(value)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{option}: {word!r} is not YAML: {' '.join(str(error).split())}") from None
        except FileNotFoundError:
            raise FileNotFoundError(f"{option} {word}: no such file") from None
    return found


def read_tasks(given: Sequence[str], trained_on: Sequence[str], known: Sequence[str]) -> dict[str, int] | None:
    """Fragment -> task, from 0; None where none is asked for. `fragment` makes each that is trained on a task.

    Args:
        trained_on: fragments that need one.
        known: all there are, which may have one.

    Raises:
        FileNotFoundError, ValueError: as `read_pairs`; a fragment without a task, one that is not there, a task that is
            no whole number from 0 on.
    """
    if not given:
        return None
    if list(given) == [_EACH]:
        return {name: number for number, name in enumerate(trained_on)}
    tasks = read_pairs(given, "--tasks")
    for name, task in tasks.items():
        if name not in known:
            near = get_close_matches(name, known, 3, 0.4) or known
            raise ValueError(f"--tasks: there is no fragment {name!r}; the nearest: {', '.join(near)}")
        if isinstance(task, bool) or not isinstance(task, int) or task < 0:
            raise ValueError(f"--tasks {name}={task}: a task is a whole number from 0 on")
    without = [name for name in trained_on if name not in tasks]
    if without:
        raise ValueError(f"--tasks says nothing of {', '.join(without)}; give each fragment a task, as {without[0]}=0")
    return tasks


def with_tasks(options: Mapping[str, Any], tasks: Mapping[str, int] | None) -> dict[str, Any]:
    """A model's options with as many `tasks` as the fragments need; more may have been asked for.

    Raises:
        ValueError: fewer were asked for.
    """
    if tasks is None:
        return dict(options)
    need = max(tasks.values()) + 1
    asked = options.get("tasks", need)
    if asked < need:
        raise ValueError(f"--options tasks={asked}: --tasks needs {need}; leave it out, or give {need} or more")
    return {**options, "tasks": asked}


def settings_file(name: str, family: str, *, pretrained: bool) -> Path | None:
    """The training settings that ship for a model: its own file, which is for training on from weights that it has been
    given, or its family's, which is for random ones; None where there is neither."""
    shipped = list_configs("train")
    for key in ([name] if pretrained else []) + [family]:
        if key in shipped:
            return config_path("train", key)
    return None


def given_weights(options: Mapping[str, Any], init_options: Sequence[str]) -> str:
    """The options that give a model weights to start from, such as `pretrained=True`; empty where none does.

    `init_options`: as on the model's card.
    """
    return ", ".join(f"{key}={options[key]}" for key in init_options if options.get(key))
