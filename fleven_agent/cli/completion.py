"""Writes the completion scripts of bash and zsh from the parser itself, so that they cannot lag behind it."""

import argparse
from collections.abc import Iterator


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:  # argparse has no public way to ask
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _words(parser: argparse.ArgumentParser) -> list[str]:
    words = list(_subparsers(parser))
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) or action.help is argparse.SUPPRESS:
            continue
        words += action.option_strings or [str(choice) for choice in action.choices or []]
    return words


def _cases(parser: argparse.ArgumentParser, path: str = "") -> Iterator[tuple[str, list[str]]]:
    yield path, _words(parser)
    for name, command in _subparsers(parser).items():
        yield from _cases(command, f"{path} {name}".strip())


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the completion script of a parser for ``bash`` or ``zsh``."""
    cases = "\n".join(f'        "{path}") words="{" ".join(words)}" ;;' for path, words in _cases(parser))
    names = "|".join(dict.fromkeys(part for path, _ in _cases(parser) for part in path.split()))
    function = f"""_{parser.prog.replace("-", "_")}() {{
    local word words path=
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$word" in
            {names}) path="${{path:+$path }}$word" ;;
        esac
    done
    case "$path" in
{cases}
        *) words= ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}")
}}
complete -o default -F _{parser.prog.replace("-", "_")} {parser.prog}
"""
    note = f"# {shell} completion of {parser.prog}; written by `{parser.prog} completion {shell}`.\n"
    if shell == "bash":
        return note + function
    return f"#compdef {parser.prog}\n{note}autoload -U +X bashcompinit && bashcompinit\n{function}".replace(
        'mapfile -t COMPREPLY < <(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}")',
        'COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))',
    )
