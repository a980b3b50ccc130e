"""Completion of our commands in fish.

Runs in: `make manual`.
"""

from collections.abc import Iterator

from dev.completions import QUEUES, SYSTEM_FILE, Kind, Line, Option, Value

_HEAD = """\
# fish completion for {command}. Made by `make manual` from its parser; do not edit.

function __{name}_queues
    set -l words (commandline -opc)
    set -l file {file}
    set -q WQ_CONFIG; and set file $WQ_CONFIG
    set -l at (contains -i -- --config $words); and set file $words[(math $at + 1)]
    set -l joined (string replace -f -r '^--config=' '' -- $words); and set file $joined[-1]
    awk '{queues}' (string replace -r '^~/' "$HOME/" -- $file) 2>/dev/null
end

complete -c {command} -f
"""


def fish(command: str, line: Line) -> str:
    """The completion file of a command."""
    name = command.replace("-", "_")
    head = _HEAD.format(command=command, name=name, queues=QUEUES.replace("\\", "\\\\"), file=SYSTEM_FILE)
    return head + "\n".join(_body(command, name, line)) + "\n"


def _body(command: str, name: str, line: Line) -> Iterator[str]:
    verbs = " ".join(verb for verb, _, _ in line.verbs)
    front = f"complete -c {command}"
    first = f"{front} -n 'not __fish_seen_subcommand_from {verbs}'" if verbs else front
    for option in line.options:
        yield f"{first} {_option(name, option)}"
    for verb, about, _ in line.verbs:
        yield f"{first} -a {verb} -d {_quoted(about.rstrip('.'))}"
    for verb, _, one in line.verbs:
        for option in one.options:
            yield f"{front} -n '__fish_seen_subcommand_from {verb}' {_option(name, option)}"


def _option(name: str, option: Option) -> str:
    flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
    value = f" {_value(name, option.value)}" if option.value is not None else ""
    return f"{flags}{value} -d {_quoted(option.help)}"


def _value(name: str, value: Value) -> str:
    if value.kind is Kind.FILE:
        return "-r -F"
    if value.kind is Kind.DIRECTORY:
        return "-x -a '(__fish_complete_directories)'"
    if value.kind is Kind.QUEUE:
        return f"-x -a '(__{name}_queues)'"
    return f"-x -a {_quoted(' '.join(value.words))}" if value.words else "-x"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
