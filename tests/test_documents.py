"""What the documents promise: their examples run and print what they show, their links lead somewhere, names exist."""

import contextlib
import io
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [path.relative_to(ROOT).as_posix() for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])]
CURRENT = [name for name in DOCUMENTS if name != "CHANGELOG.md"]
"""Those that tell of the package as it is: a changelog tells of what is gone, too."""

OPTIONAL = ("torch", "jax", "cupy", "matplotlib")


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def fences(text):
    """Yield (language, line of the first line within, text) of every fenced block."""
    for found in re.finditer(r"^```(\S*)[^\n]*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield found[1], text[: found.start(2)].count("\n"), found[2]


def prose(text):
    """Return a document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def run_examples(name):
    """Run the Python of a document from its top, in one namespace; what follows as `output` is what it must print."""
    namespace, printed = {}, io.StringIO()
    for language, line, block in fences(text_of(name)):
        if language == "python":
            for library in OPTIONAL:
                if f"import {library}" in block:
                    pytest.importorskip(library, reason=f"{library} is not installed")
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile("\n" * line + block, name, "exec"), namespace)  # a traceback has the document's line
        elif language == "output":
            assert printed.getvalue() == block, f"{name}, line {line + 1}"


@pytest.mark.parametrize("name", [n for n in DOCUMENTS if any(each[0] == "python" for each in fences(text_of(n)))])
def test_the_examples_of_a_document_run_and_print_what_it_shows(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_examples(name)


# -- links --------------------------------------------------------------------------------------------------------


def anchors(text):
    """Return the anchors that GitHub gives to the headings of a document."""
    found = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        others = (f"{slug}-{k}" for k in range(1, len(found) + 1))
        found.add(slug if slug not in found else next(each for each in others if each not in found))
    return found


def faults(name):
    """Return the links of a document that lead nowhere within this repository."""
    found = []
    for target in re.findall(r"\]\(([^()\s]+)\)", prose(text_of(name))):
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        if not re.match(r"\w+:", target) and not (
            file.exists() and (not anchor or anchor in anchors(file.read_text(encoding="utf-8")))
        ):
            found.append(target)
    return found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_and_anchor_of_a_document_leads_somewhere(name):
    assert faults(name) == []


def test_every_document_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md|[A-Z]+\.md)[#)]", text_of("README.md")))
    assert linked == {*DOCUMENTS} - {"README.md"}


def test_every_document_is_in_the_source_distribution():
    """There the relative links of the long description lead to files."""
    project = tomllib.loads(text_of("pyproject.toml"))
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {name.partition("/")[0] for name in DOCUMENTS} <= {*included, project["project"]["readme"]}


# -- names --------------------------------------------------------------------------------------------------------


def test_every_dotted_name_of_the_documents_resolves_after_one_import():
    names = sorted({each for name in CURRENT for each in re.findall(r"\bxprnn(?:\.[A-Za-z]\w*)+", text_of(name))})
    code = f"import functools, xprnn; [functools.reduce(getattr, n.split('.')[1:], xprnn) for n in {names}]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", CURRENT)
def test_every_path_in_a_document_exists(name):
    paths = set(re.findall(r"(?<![\w/.])(?:xprnn|scripts|tests|docs)/[\w./-]*\w", text_of(name)))
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", CURRENT)
def test_every_option_of_a_command_in_a_document_is_an_option_of_that_script(name):
    commands = re.findall(r"python (scripts/[\w/]+\.py|-m pytest)([^`&|\n]*)", text_of(name))
    for path, rest in [*commands, ("any command", " ".join(re.findall(r"`(--[a-z-]+)", text_of(name))))]:
        scripts = sorted(each.relative_to(ROOT).as_posix() for each in ROOT.glob("scripts/**/*.py"))
        sources = {"-m pytest": ["tests/conftest.py"], "any command": ["tests/conftest.py", *scripts]}
        known = "".join(map(text_of, sources.get(path, [path, "scripts/examples/real_data.py"])))
        for option in {*re.findall(r"--[a-z-]+", rest)} - {"--help"}:
            assert f'"{option}"' in known, f"{path} has no {option}"


def test_the_readme_is_short():
    assert text_of("README.md").count("\n") <= 150
