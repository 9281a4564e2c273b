"""Table of the study's claims: what it says, what was measured here, and the verdict."""

from sparsemark.files import run_program
from sparsemark.results.claims import COLUMNS, CONFIRMED, REFUTED
from sparsemark.results.html_table import Cell, write_table
from sparsemark.results.measurements import input_parser, load_table

VERDICT_STYLES = {CONFIRMED: "good", REFUTED: "bad"}


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "claims").parse_args(arguments)
    claims = load_table(options.claims, dict.fromkeys(COLUMNS, str))
    rows = [
        [
            claim["statement"],
            claim["quantity"],
            claim["value"] or Cell("–", "quiet"),
            f"{claim['low']} to {claim['high']}" if claim["low"] else Cell("–", "quiet"),
            Cell(claim["verdict"], VERDICT_STYLES.get(claim["verdict"], "quiet")),
            claim["reason"],
        ]
        for _, claim in claims.iterrows()
    ]
    counts = claims["verdict"].value_counts()
    note = (
        ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        + ". A verdict needs the whole 95 % interval on one side of the claim's limit; the interval of a largest or "
        "smallest ratio allows for how many there are."
    )
    header = ["Claim", "Measured quantity", "Value", "Interval", "Verdict", "Why"]
    write_table(
        options.out, "What the study says, and what this machine says", note, header, rows, ["Value", "Interval"]
    )


if __name__ == "__main__":
    run_program(main)
