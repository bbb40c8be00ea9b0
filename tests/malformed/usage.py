"""Command lines that name no command, no option, or too much."""

from tests.malformed.case import Case

CASES = [
    Case("no such command", ["serach"], r"headmask: No such command 'serach'.*`headmask --help` lists the options"),
    Case("no such option", ["search", "--modle", "x"], r"No such option: --modle.*--model.*`headmask search --help`"),
    Case("no value", ["search", "--model"], r"Option '--model' requires an argument"),
    Case("no such choice", ["bench", "engine", "--workload", "all"], r"Invalid value for '--workload'.*scan.*single"),
    Case("no such pool", ["search", "--pool", "cloud"], r"pool\.kind: must be 'ray' or 'inline', got 'cloud'"),
    Case(
        "no such pool, for the demo", ["demo", "--pool", "cloud"], r"pool\.kind: must be 'ray' or 'inline', got 'cloud'"
    ),
    Case("a word for a number", ["search", "--masks", "many"], r"Invalid value for '--masks'.*valid integer"),
    Case("one argument too many", ["report", "{run}", "x"], r"unexpected extra argument"),
    Case("no argument", ["report"], r"Missing argument"),
    Case("no such data command", ["data", "shwo"], r"No such command 'shwo'"),
    Case("markup in a command", ["[/]"], r"No such command '\[/\]'"),
    Case("an escape sequence in a command", ["a\x1b[31mb"], r"No such command 'a\\x1b\[31mb'"),
    Case("half of a surrogate pair", ["report", "a\udcffb"], r"no run folder at a\\udcffb"),
    Case("markup in a name", ["report", "a[/]b[bold]c"], r"no run folder at a\[/\]b\[bold\]c"),
]
