"""Reads an API server's audit log for what the launcher's and the trainer's accounts asked."""

import json

import yaml

LAUNCHER, TRAINER = "sightline-launcher", "sightline-trainer"


def lines_of(path, namespace):
    """Yield the lines of a log that name a namespace's accounts, also where it was rotated."""
    for file in sorted(path.parent.glob(f"{path.stem}*{path.suffix}")):
        with file.open(encoding="utf-8") as lines:
            yield from (line for line in lines if f"system:serviceaccount:{namespace}:" in line)


def given_by(roles):
    """Return what the manifests of roles give the launcher, as (resource, verb)."""
    (role,) = [entry for entry in yaml.safe_load_all(roles) if entry["kind"] == "Role"]
    return {
        (r, verb) for rule in role["rules"] for r in rule["resources"] for verb in rule["verbs"]
    }


def requests(lines, namespace):
    """Yield each request of the two accounts: who, where, what, how, when, and the answer's code.

    What somebody else asks about an account, as `kubectl auth can-i --as` does, is none of its own.
    """
    for line in lines:
        entry = json.loads(line)
        place, _, account = entry["user"]["username"].rpartition(":")
        if place != f"system:serviceaccount:{namespace}" or account not in (LAUNCHER, TRAINER):
            continue
        about = entry.get("objectRef", {})
        parts = (about.get("resource", entry["requestURI"]), about.get("subresource"))
        what = "/".join(filter(None, parts))
        when, code = entry["requestReceivedTimestamp"], entry.get("responseStatus", {}).get("code")
        yield account, about.get("namespace", ""), what, entry["verb"], when, code


def complaints(lines, namespace, given, on_purpose=(), restarts=()):
    """Return every request that its account's role does not give, or that was refused.

    Args:
        lines: The log's.
        namespace: Where the two accounts are.
        given: What the launcher may do there, as (resource, verb); the trainer may do nothing.
        on_purpose: Requests that tests make in order to be refused, as (account, namespace,
            resource, verb).
        restarts: Spans of time, each (from, to) as the log writes it, in which a server that had
            just started refused what it gives.
    """
    found = []
    for account, where, what, verb, when, code in requests(lines, namespace):
        if (account, where, what, verb) in on_purpose:
            continue
        is_given = account == LAUNCHER and where == namespace and (what, verb) in given
        is_restart = is_given and any(begin <= when <= end for begin, end in restarts)
        if not is_given or (code == 403 and not is_restart):
            found.append(f"{when} {account} {verb} {what} in {where or 'the cluster'}: {code}")
    return found
