"""Completion of our commands in zsh.

Runs in: `make manual`.
"""

from collections.abc import Iterator

from dev.completions import QUEUES, SYSTEM_FILE, Kind, Line, Option, Value

_HEAD = """\
#compdef {command}
# zsh completion for {command}. Made by `make manual` from its parser; do not edit.

_{name}_queues() {{
    local file=${{opt_args[--config]:-${{WQ_CONFIG:-{file}}}}}
    local -a names
    names=(${{(f)"$(awk '{queues}' ${{(Q)~file}} 2>/dev/null)"}})
    compadd -a names
}}

_{name}() {{
    local curcontext=$curcontext state
    typeset -A opt_args
"""


def zsh(command: str, line: Line) -> str:
    """The completion file of a command."""
    name = command.replace("-", "_")
    head = _HEAD.format(command=command, name=name, queues=QUEUES, file=SYSTEM_FILE)
    return head + "\n".join(_body(name, line)) + f'\n}}\n\n_{name} "$@"\n'


def _body(name: str, line: Line) -> Iterator[str]:
    if not line.verbs:
        yield from _arguments(name, line, "    ", [])
        return
    verbs = " ".join(_quoted(f"{verb}:{about.rstrip('.')}") for verb, about, _ in line.verbs)
    yield f"    local -a verbs=({verbs})"
    yield from _arguments(name, line, "    ", ["'1:verb:->verb'", "'*::argument:->argument'"])
    yield "    case $state in"
    yield "        verb) _describe verb verbs ;;"
    yield "        argument)"
    yield "            case $words[1] in"
    for verb, _, one in line.verbs:
        yield f"                {verb})"
        yield from _arguments(name, one, "                    ", [])
        yield "                    ;;"
    yield "            esac"
    yield "            ;;"
    yield "    esac"


def _arguments(name: str, line: Line, indent: str, further: list[str]) -> Iterator[str]:
    specs = [_option(name, option) for option in line.options]
    specs += further + [_quoted(f"*:{value.name}:{_action(name, value)}") for value in line.arguments]
    yield f"{indent}_arguments -s -S \\"
    for spec in specs:
        yield f"{indent}    {spec}{' ' + chr(92) if spec is not specs[-1] else ''}"


def _option(name: str, option: Option) -> str:
    excluded = " ".join((*option.excludes, *(() if option.repeats else option.flags)))
    what = option.help.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
    value = ""
    if option.value is not None:
        value = f":{option.value.name}:{_action(name, option.value)}"
    front = "*" if option.repeats and not option.excludes else f"({excluded})"
    specs = []
    for flag in option.flags:
        ending = "" if option.value is None else "=" if flag.startswith("--") else "+"
        specs.append(_quoted(f"{front}{flag}{ending}[{what}]{value}"))
    return " ".join(specs)


def _action(name: str, value: Value) -> str:
    if value.kind is Kind.WORDS:
        return f"({' '.join(value.words)})"
    actions = {Kind.QUEUE: f"_{name}_queues", Kind.FILE: "_files", Kind.DIRECTORY: "_files -/"}
    return actions.get(value.kind, " ")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
