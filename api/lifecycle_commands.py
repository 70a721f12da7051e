"""The commands that change what becomes of searches and promotions; each says in a sentence what happens next."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from api import words
from api.client_commands import connected, say_begun
from api.exit_codes import BAD_INPUT, SUCCESS
from api.outlook import outlook, used_up
from nas.client import Client
from nas.errors import SettingError
from nas.states import Intent, SearchState
from nas.views import PromotionView, SearchView

_FOLDERS_LISTED = 5


def pause(parsed: argparse.Namespace) -> int:
    with connected(parsed) as client:
        if parsed.promotion is None:
            return _told(parsed, client.pause(parsed.search))
        return _told_of(parsed, client.pause_promotion(parsed.search, parsed.promotion), "it saves its state and ends")


def stop(parsed: argparse.Namespace) -> int:
    with connected(parsed) as client:
        return _told(parsed, client.stop(parsed.search))


def cancel(parsed: argparse.Namespace) -> int:
    with connected(parsed) as client:
        if parsed.promotion is None:
            return _told(parsed, client.cancel(parsed.search))
        view = client.cancel_promotion(parsed.search, parsed.promotion)
        rest = "the model that it has ended in before stays" if view.model_id else "the search does without its model"
        return _told_of(parsed, view, f"it ends now, and {rest}")


def resume(parsed: argparse.Namespace) -> int:
    with connected(parsed) as client:
        if parsed.promotion is None:
            return _told(parsed, client.resume(parsed.search), "it goes on from its newest checkpoints")
        view = client.resume_promotion(parsed.search, parsed.promotion)
        return _told_of(parsed, view, "it goes on from its newest checkpoint")


def retry(parsed: argparse.Namespace) -> int:
    with connected(parsed) as client:
        if parsed.promotion is not None:
            if parsed.candidate is not None:
                raise SettingError("--candidate", parsed.candidate, "goes with no --promotion", "one of the two")
            view = client.retry_promotion(parsed.search, parsed.promotion)
            return _told_of(parsed, view, "what has failed of it is tried again")
        return _told(parsed, client.retry(parsed.search, parsed.candidate), "what has failed is tried again")


def extend(parsed: argparse.Namespace) -> int:
    given = {name: getattr(parsed, name) for name in ("candidates", "tokens", "seeds")}
    added: dict[str, Any] = {}
    for name, value in given.items():
        added |= {} if value is None else nested([f"{name}={value}"], f"--{name}")
    limits = nested(parsed.spending, "--spending")
    with connected(parsed) as client:
        if parsed.promotion is not None:
            if limits or set(added) != {"tokens"}:
                raise SettingError("--promotion", parsed.promotion, "is extended by tokens alone", "--tokens with it")
            promotion = client.extend_promotion(parsed.search, parsed.promotion, added["tokens"])
            return _told_of(parsed, promotion, "it goes on for more tokens once it has done what it does now")
        if limits:
            # The service takes all limits together; whoever changes one means the others to stay.
            before = client.search(parsed.search).spending
            limits = added["spending"] = {**before.model_dump(exclude_none=True), **limits}
        doing = f"it goes on {_within(limits)}" if set(added) == {"spending"} else "it goes on with what was added"
        return _told(parsed, client.extend(parsed.search, added), doing)


def clone(parsed: argparse.Namespace) -> int:
    changes = nested(parsed.set, "--set")
    if "name" in changes:
        raise SettingError("--set", f"name={changes['name']}", "is given as NAME already", "other fields")
    with connected(parsed) as client:
        view = client.clone(parsed.search, parsed.name, changes)
        say_begun(client, view)
    if parsed.json:
        print(view.model_dump_json())
    return SUCCESS


def archive(parsed: argparse.Namespace) -> int:
    with connected(parsed) as client:
        view = client.archive(parsed.search)
    return _say(parsed, view, f"{view.name}: archived; `topiary searches --archived` lists it")


def unarchive(parsed: argparse.Namespace) -> int:
    with connected(parsed) as client:
        view = client.unarchive(parsed.search)
    return _say(parsed, view, f"{view.name}: {view.state}; `topiary searches` lists it again")


def delete(parsed: argparse.Namespace) -> int:
    """Without --yes, says what would go, and leaves it: a command that was not carried out."""
    with connected(parsed) as client:
        what = _belongings(client, parsed.search)
        if parsed.yes:
            client.delete(parsed.search)
    if parsed.json:
        print(json.dumps({"search": parsed.search, "deleted": parsed.yes, **what}))
    elif parsed.yes:
        print(f"{parsed.search}: deleted")
    else:
        print(_listed(parsed.search, what))
    if not parsed.yes:
        print("topiary: nothing is deleted without --yes", file=sys.stderr)
    return SUCCESS if parsed.yes else BAD_INPUT


def nested(given: Sequence[str], option: str) -> dict[str, Any]:
    """`trial.tokens=1e6` as `{"trial": {"tokens": "1e6"}}`: dotted fields, values in YAML. Raises SettingError."""
    found: dict[str, Any] = {}
    accepted = "FIELD=VALUE, such as trial.tokens=1e9; null takes a value away"
    for each in given:
        field, equals, value = each.partition("=")
        *parents, last = field.split(".")
        place = found
        for name in parents:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise SettingError(option, each, f"is within {name}, which is given a value too", accepted)
        if not (equals and all([*parents, last])):
            raise SettingError(option, each, "is no field with a value", accepted)
        try:
            place[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SettingError(option, each, f"is not YAML ({' '.join(str(error).split())})", accepted) from error
    return found


# --- what is said -------------------------------------------------------------------------------------------


def _told(parsed: argparse.Namespace, view: SearchView, doing: str = "") -> int:
    """What happens next; `doing` is what a search does that was asked to go on."""
    said = outlook(view)
    waits = view.state in (SearchState.PAUSED, SearchState.STOPPED)
    if doing and waits and used_up(view) is None:
        said = f"with `topiary resume {view.name}` {doing}"
    elif doing and view.state is SearchState.RUNNING and view.intent is Intent.RUN:
        said = doing
    state = words.state(view.state, view.intent)
    return _say(parsed, view, f"{view.name}: {state}; {said}" if said else f"{view.name}: {state}")


def _told_of(parsed: argparse.Namespace, view: PromotionView, doing: str) -> int:
    return _say(parsed, view, f"promotion {view.id} of {parsed.search}: {doing}")


def _say(parsed: argparse.Namespace, view: SearchView | PromotionView, sentence: str) -> int:
    print(view.model_dump_json() if parsed.json else sentence)
    return SUCCESS


def _within(limits: Mapping[str, object]) -> str:
    told = [f"{field}: {value}" for field, value in limits.items() if value is not None]
    return f"within {', '.join(told)}" if told else "without a limit"


# --- what is deleted ----------------------------------------------------------------------------------------


def _belongings(client: Client, name: str) -> dict[str, Any]:
    """What is on record of a search, and how many bytes its folders hold; None if they are not on this machine."""
    attempts = client.attempts(name)
    folders = [attempt.folder for attempt in attempts if attempt.folder]
    here = [folder for folder in map(Path, folders) if folder.is_dir()]
    sizes = (file.stat().st_size for folder in here for file in folder.rglob("*") if file.is_file())
    return {
        "state": client.search(name).state,
        "jobs": len({attempt.job_id for attempt in attempts}),
        "attempts": len(attempts),
        "models": [model.folder for model in client.models(name)],
        "folders": folders,
        "bytes": sum(sizes) if here else None,
    }


def _listed(name: str, what: Mapping[str, Any]) -> str:
    size = "" if what["bytes"] is None else f", {words.size(what['bytes'], 'B')}"
    lines = [
        f"{name}, which is {what['state']}, with all that is on record of it and these artifacts:",
        f"jobs            {what['jobs']}, tried {what['attempts']} times",
        *(f"model           {folder}" for folder in what["models"]),
        f"folders         {len(what['folders'])}{size}",
        *(f"                {folder}" for folder in what["folders"][:_FOLDERS_LISTED]),
    ]
    if (more := len(what["folders"]) - _FOLDERS_LISTED) > 0:
        lines.append(f"                and {more} more, which --json lists")
    if what["state"] is SearchState.RUNNING:
        lines.append("It runs: only one that is paused, stopped or has ended can be deleted.")
    return "\n".join(lines)
