"""`python -m conformance clients`: fields of the clients' types that COMPATIBILITY.md has no row for."""

from __future__ import annotations

import pytest

from conformance import apis, clients, matrix

TYPES = """\
export interface Other extends Base {
    no: string;
}
export interface Params extends Base<Other> {
    /**
     * not: a field
     */
    model: 'a' | (string & {});
    readonly top_p?: number | null;
    tools?: Array<{
        inner: string;
    }>;
    'quoted'?: boolean;
}
export interface Later {
    late: string;
}
"""


def test_the_fields_that_typescript_declares() -> None:
    assert clients.declared(TYPES, "Params") == ("model", "top_p", "tools", "quoted")
    with pytest.raises(ValueError, match=r"there is no interface Param$"):
        clients.declared(TYPES, "Param")


def test_a_field_without_a_row_is_new() -> None:
    page = matrix.PAGE.read_text("utf-8")
    assert clients.new(page, {"request": ["messages", "invented"], "no section": ["x"]}) == ["request.invented"]


def test_every_field_of_the_installed_packages_has_a_row() -> None:
    assert clients.new(matrix.PAGE.read_text("utf-8"), matrix.fields()) == []


def test_the_sections_are_there() -> None:
    titles = clients.rows(matrix.PAGE.read_text("utf-8"))
    assert {section.title for section in apis.sections().values() if section.fields} <= titles.keys()
    assert len(titles["Chat requests"]) > 30
