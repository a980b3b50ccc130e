"""Completion of our commands in bash.

Runs in: `make manual`.
"""

from collections.abc import Iterator

from dev.completions import QUEUES, SYSTEM_FILE, Kind, Line, Value

#: The words are those of the line, not COMP_WORDS: bash cuts them at = and :, and a queue may be called a:b.
_HEAD = """\
# bash completion for {command}. Made by `make manual` from its parser; do not edit.

_{name}_queues() {{
    awk '{queues}' "${{1:-${{WQ_CONFIG:-{file}}}}}" 2>/dev/null
}}

# The words in $1, a line each, that begin with what was typed.
_{name}_reply() {{
    local word
    while IFS= read -r word; do
        [[ -n $word && $word == "$typed"* ]] && COMPREPLY+=("${{word#"$cut"}}")
    done <<<"$1"
    return 0
}}

_{name}() {{
    local line=${{COMP_LINE:0:COMP_POINT}} typed cut= option= config= verb= word
    local -a words
    typed=${{line##*[[:space:]]}}
    read -ra words <<<"${{line%"$typed"}}"
    COMPREPLY=()
    for word in "${{words[@]:1}}"; do
        [[ $word == -- ]] && return
        if [[ $option ]]; then
            [[ $option == --config ]] && config=${{word/#\\~\\//$HOME/}}
            option=
            continue
        fi
        case $word in
            --config=*) config=${{word#*=}} ;;
{values}
            -*) ;;
            *) verb=${{verb:-$word}} ;;
        esac
    done
    if [[ $typed == --*=* ]]; then
        option=${{typed%%=*}}
        typed=${{typed#*=}}
    fi
    [[ $typed == *:* && $COMP_WORDBREAKS == *:* ]] && cut=${{typed%"${{typed##*:}}"}}
"""


def bash(command: str, line: Line) -> str:
    """The completion file of a command."""
    name = command.replace("-", "_")
    lines = [line, *(one for _, _, one in line.verbs)]
    flags = sorted({flag for one in lines for option in one.with_value() for flag in option.flags})
    values = f"            {' | '.join(flags)}) option=$word ;;"
    head = _HEAD.format(command=command, name=name, queues=QUEUES, file=SYSTEM_FILE, values=values)
    return head + "\n".join(_body(name, line)) + f"\n}}\n\ncomplete -F _{name} {command}\n"


def _body(name: str, line: Line) -> Iterator[str]:
    yield from _values(name, line)
    if not line.verbs:
        yield from _line(name, line, "    ")
        return
    yield "    case $verb in"
    for verb, _, one in line.verbs:
        yield f"        {verb})"
        yield from _line(name, one, "            ")
        yield "            ;;"
    yield '        "")'
    yield from _line(name, line, "            ")
    yield "            ;;"
    yield "    esac"


def _values(name: str, line: Line) -> Iterator[str]:
    """Where a value is due, it is completed and nothing else."""
    options = {
        option.flags: option.value for one in (line, *(one for _, _, one in line.verbs)) for option in one.with_value()
    }
    yield "    case $option in"
    for flags, value in options.items():
        if value is not None:
            yield f"        {' | '.join(flags)}) {_reply(name, value)}return ;;"
    yield "    esac"


def _line(name: str, line: Line, indent: str) -> Iterator[str]:
    flags = "\\n".join(flag for option in line.options for flag in option.flags)
    yield f"{indent}if [[ $typed == -* ]]; then"
    yield f"{indent}    _{name}_reply $'{flags}'"
    if line.verbs:
        verbs = "\\n".join(verb for verb, _, _ in line.verbs)
        yield f"{indent}else"
        yield f"{indent}    _{name}_reply $'{verbs}'"
    yield f"{indent}fi"


def _reply(name: str, value: Value) -> str:
    if value.kind is Kind.WORDS:
        words = "\\n".join(value.words)
        return f"_{name}_reply $'{words}'; "
    if value.kind is Kind.QUEUE:
        return f'_{name}_reply "$(_{name}_queues "$config")"; '
    if value.kind in (Kind.FILE, Kind.DIRECTORY):
        action = "-d" if value.kind is Kind.DIRECTORY else "-f"
        return f'compopt -o filenames; mapfile -t COMPREPLY < <(compgen {action} -- "$typed"); '
    return ""
