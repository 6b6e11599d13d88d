"""Fixtures of the tests of predict."""

import pytest


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from tests.training.tiny import tiny_data

    return tiny_data(tmp_path_factory.mktemp("shapes") / "set", train_images=1, val_images=5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from tests.tools.saved import save_random

    return save_random(tmp_path_factory.mktemp("weights") / "weights.params")


@pytest.fixture
def predict(weights, tmp_path, capsys):
    """Runs the command; returns (status, standard output, standard error, output folder)."""

    from ssd.__main__ import main

    def run(*arguments, output="out"):
        flags = ["--weights", weights, "--device", "cpu", "--output", str(tmp_path / output)]
        try:
            status = main(["predict", *(flags if output else flags[:4]), *map(str, arguments)])
        except SystemExit as end:  # argparse
            status = end.code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err, tmp_path / output

    return run
