"""The flags: defaults of the variants, bounds, help, and where the results go."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import declare
import settings
from command import as_text, build_parser, parse_settings
from settings import RENAMED, VARIANTS, Settings, defaults, specs
from utils import InputError

FIELDS = list(specs())
BY_VARIANT = sorted(
    name for name in FIELDS if defaults("sctag")[name] != defaults("official")[name]
)

WHOLE_FROM_ONE = [
    *("highly_genes", "k_neighbors", "n_pcs", "hops", "hidden_dim", "latent_dim"),
    *("decoder_dims", "pretrain_epochs", "update_interval"),
]
CHOICES = [
    *("variant", "gene_selection", "tag_blocks", "direction", "zinb_target"),
    *(
        "init",
        "cluster_on",
        "kl",
        "zinb_clip",
        "lr_schedule",
        "final_labels",
        "precision",
        "reconstruction",
    ),
]
SHARES = ["dropout", "pretrain_tol", "cluster_tol"]
REFUSED = [
    *((flag, value) for flag in WHOLE_FROM_ONE for value in ("0", "-1", "1.5", "nan", "ten")),
    *(("n_clusters", value) for value in ("1", "0", "-2", "2.5", "nan", "all")),
    *((f, v) for f in SHARES for v in ("1", "1.5", "-0.1", "nan", "inf", "half")),
    *((w, value) for w in ("w_adj", "w_zinb", "w_kl") for value in ("-1", "nan", "inf", "x")),
    *((rate, v) for rate in ("pretrain_lr", "cluster_lr") for v in ("0", "-1", "nan", "inf", "x")),
    *(("clip", value) for value in ("0", "-1", "nan", "inf", "never")),
    *(("resolution", value) for value in ("0", "-1", "nan", "inf", "high")),
    *(("seed", value) for value in ("-1", "1.5", "nan", str(2**32))),
    *((f, value) for f in ("exact_knn_cells", "maxiter") for value in ("-1", "1.5", "nan", "few")),
    *((flag, "other") for flag in CHOICES),
]
ACCEPTED = [
    *((flag, "1", 1) for flag in WHOLE_FROM_ONE if flag != "decoder_dims"),
    ("n_clusters", "2", 2),
    ("n_clusters", "labels", "labels"),
    ("n_clusters", "auto", "auto"),
    ("resolution", "1e-3", 1e-3),
    *((share, "0", 0.0) for share in SHARES),
    *((share, "0.99", 0.99) for share in SHARES),
    *((weight, "0", 0.0) for weight in ("w_adj", "w_zinb", "w_kl")),
    ("pretrain_lr", "1e-9", 1e-9),
    ("clip", "none", None),
    ("clip", "2.5", 2.5),
    ("exact_knn_cells", "0", 0),
    ("maxiter", "0", 0),
    ("seed", "0", 0),
    ("seed", str(2**32 - 1), 2**32 - 1),
    ("genome", "GRCh38", "GRCh38"),
    ("gpu_option", "-1", "-1"),
    ("gpu_option", "0,1", "0,1"),
]


def as_dict(*flags):
    return dataclasses.asdict(parse_settings([*flags]))


def other_value(name):
    """Flags that give `name` a value which is neither variant's default, or the opposite, and it.

    Of a flag with two values the second one differs from the default of one variant at least.
    """
    spec = specs()[name]
    values = [spec.default_in(variant) for variant in VARIANTS]
    if bool in spec.types:
        return [([f"--{name}"], True), ([f"--no-{name}"], False)]
    if spec.choices:
        return [([f"--{name}", choice], choice) for choice in spec.choices]
    value = 0.125 if spec.number is float else 7
    assert value not in values
    return [([f"--{name}", str(value)], value)]


def test_the_variant_sets_the_defaults_of_its_flags_and_nothing_else():
    sctag, official = as_dict("--variant", "sctag"), as_dict("--variant", "official")
    assert as_dict() == sctag == dataclasses.asdict(Settings())
    declared = {name for name, spec in specs().items() if spec.official is not declare.AS_SCTAG} | {
        "variant"
    }
    assert {name for name in FIELDS if sctag[name] != official[name]} == declared


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", [name for name in BY_VARIANT if name != "variant"])
def test_a_flag_that_the_user_gives_wins_and_changes_nothing_else(name, variant):
    default = as_dict("--variant", variant)
    for flags, value in other_value(name):
        # also before --variant: the order on the command line does not matter
        assert as_dict(*flags, "--variant", variant) == default | {name: value}


def test_official_is_the_published_code():
    """The nine rows of departures, then the pipeline as published (the paper's repository)."""
    settings = parse_settings(["--variant", "official"])
    assert settings.tag_blocks == "repeated"  # 1: blocks [X, AX, AX, AX]
    assert settings.hops == 3
    assert settings.direction == "ax"  # 2: A X
    assert settings.zinb_target == "scaled"  # 3: z-scores
    assert settings.zinb_clip == "stop"
    assert settings.dropout == 0  # 4: never active
    assert settings.train_centers is False  # 5: frozen
    assert settings.kl == "qp"  # 6: KL(q || p)
    assert settings.final_labels == "refresh"  # 7: of the last refresh, epoch 296 of 300
    assert (settings.update_interval, settings.maxiter) == (8, 300)
    assert settings.init == "spectral"  # 8: of the directed graph
    assert settings.cluster_on == "embedding"
    assert settings.symmetric_graph is False  # 8 and 9

    assert (settings.gene_selection, settings.clip) == ("seurat", None)
    assert (settings.n_pcs, settings.k_neighbors) == (50, 15)
    assert (settings.hidden_dim, settings.latent_dim) == (128, 15)
    assert settings.decoder_dims == [128, 256, 512]
    assert (settings.w_adj, settings.w_zinb, settings.w_kl) == (0.3, 1.0, 1.5)
    assert (settings.pretrain_lr, settings.cluster_lr) == (1e-4, 5e-4)


def test_sctag_is_the_method_as_described():
    settings = parse_settings([])
    assert settings.variant == "sctag"
    assert settings.tag_blocks == "powers"
    assert settings.direction == "ax"
    assert settings.train_centers is True
    assert settings.kl == "pq"
    assert settings.final_labels == "final"
    assert settings.init == "consensus"


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_defaults(variant):
    settings = parse_settings(["--variant", variant])
    assert settings.dataname == "Quake_Smart-seq2_Limb_Muscle"
    assert settings.highly_genes == 500
    assert settings.pretrain_epochs == 1000
    assert settings.maxiter == 300
    assert settings.gpu_option is None  # what the environment says, else the first
    assert settings.seed == 1
    assert settings.n_clusters is None  # of the labels, where there are any


def refused(capsys, *flags):
    """The one line on stderr with which the flags are refused, with exit status 2."""
    with pytest.raises(SystemExit) as exit_:
        parse_settings([*flags])
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("train.py: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


@pytest.mark.parametrize(("flag", "value"), REFUSED)
def test_a_value_out_of_bounds_is_refused_in_one_line(flag, value, capsys):
    err = refused(capsys, f"--{flag}", value)
    assert f"--{flag}" in err
    assert value in err


def test_one_bad_width_among_good_ones_is_refused(capsys):
    assert "0" in refused(capsys, "--decoder_dims", "128", "0", "512")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("--n-clusters", "did you mean --n_clusters?"),
        ("--n-clusters=3", "did you mean --n_clusters?"),
        ("--layers", "did you mean --layer?"),
        ("cells.h5ad", "a file is named with --data"),
    ],
)
def test_what_may_have_been_meant_is_said(word, hint, capsys):
    assert f"unrecognized arguments: {word}, {hint}" in refused(capsys, word)


@pytest.mark.parametrize("flags", [["--epochs", "3"], ["--maxiter"], ["--decoder_dims"], ["stray"]])
def test_unknown_and_unfinished_flags_are_refused_in_one_line(flags, capsys):
    assert flags[0] in refused(capsys, *flags)


@pytest.mark.parametrize(("flag", "value", "meaning"), ACCEPTED)
def test_values_at_the_bounds_are_accepted(flag, value, meaning):
    assert as_dict(f"--{flag}", value)[flag] == meaning


@pytest.mark.parametrize("name", [name for name in FIELDS if specs()[name].number])
def test_every_number_has_a_bound_beyond_which_it_is_refused(name, capsys):
    spec = specs()[name]
    beyond = spec.above if spec.low is None else spec.low - 1
    assert f"--{name}" in refused(capsys, f"--{name}", str(beyond))
    with pytest.raises(InputError, match=name):
        Settings.of(**{name: [beyond] if spec.is_list else beyond})


def test_an_old_name_still_works_and_is_hidden(monkeypatch):
    monkeypatch.setitem(RENAMED, "loops", "hops")
    assert parse_settings(["--loops", "4"]).hops == 4
    assert Settings.of(loops=4).hops == 4
    assert "--loops" not in build_parser().format_help()
    assert parse_settings(["--loops", "4", "--hops", "2"]).hops == 2


@pytest.mark.parametrize("name", ["restarts", "networks"])
def test_a_flag_that_is_gone_is_accepted_where_it_says_what_is_done(name, capsys):
    assert parse_settings([f"--{name}", "1"]) == parse_settings([])
    assert f"--{name}" not in build_parser().format_help()
    assert f"--{name} 3 is of an earlier version" in refused(capsys, f"--{name}", "3")


# --- Settings of a program ------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_program_gets_what_the_command_gets(variant):
    given = {"hops": 2, "clip": None, "decoder_dims": [8, 4], "n_clusters": "auto", "data": "a.h5"}
    flags = ["--hops", "2", "--clip", "none", "--decoder_dims", "8", "4", "--n_clusters", "auto"]
    by_flags = parse_settings(["--variant", variant, *flags, "--data", "a.h5"])
    assert Settings.of(variant, **given) == by_flags
    assert Settings.of(**by_flags.to_json()) == by_flags  # as settings.json holds them


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"hop": 2}, "no setting 'hop', did you mean hops?"),
        ({"hops": "2"}, "hops must be a whole number, not '2'"),
        ({"hops": 1.5}, "hops must be a whole number, not 1.5"),
        ({"hops": True}, "hops must be a whole number, not True"),
        ({"n_clusters": float("nan")}, "n_clusters must be a whole number, not nan"),
        ({"clip": float("inf")}, "clip must be above 0"),
        ({"dropout": None}, "dropout must be a number, not None"),
        ({"decoder_dims": []}, "decoder_dims must have one number at least"),
        ({"decoder_dims": [8, 0]}, "decoder_dims must be at least 1, not 0"),
        ({"decoder_dims": 8}, "decoder_dims"),
        ({"kl": "p"}, "kl must be one of pq, qp, not 'p'"),
        ({"train_centers": 1}, "train_centers must be True or False, not 1"),
        ({"layer": 3}, "layer must be text, not 3"),
        ({"subset": ["a=b", 3]}, "subset must be text, not 3"),
        ({"subset": []}, "subset must have one value at least"),
        ({"data": [3]}, "data"),
        ({"max_mito": 20}, "max_mito must be at least 0 and below 1, not 20"),
        ({"transpose": "yes"}, "transpose must be True or False, not 'yes'"),
        ({"variant": "published"}, "variant must be one of sctag, official"),
    ],
)
def test_what_a_program_gives_is_checked(given, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Settings.of(**given)


def test_numbers_of_numpy_are_numbers():
    given = Settings.of(hops=np.int64(2), dropout=np.float32(0.5))
    assert (given.hops, given.dropout) == (2, 0.5)
    assert type(given.hops) is int
    assert type(given.dropout) is float


def test_whether_to_transpose_is_guessed_unless_it_is_said():
    assert parse_settings([]).transpose is None
    assert parse_settings(["--transpose"]).transpose is True
    assert parse_settings(["--no-transpose"]).transpose is False


def test_several_widths():
    assert parse_settings(["--decoder_dims", "64", "32"]).decoder_dims == [64, 32]


@pytest.fixture(scope="module")
def entries():
    """The help text by flag, each on one line."""
    options = re.split(r"^  (?=--|-h)", build_parser().format_help(), flags=re.MULTILINE)[1:]
    # a blank line ends the last flag of a group
    paragraphs = [" ".join(text.split("\n\n")[0].split()) for text in options]
    return {re.match(r"-+(\w+)", text)[1]: text for text in paragraphs}


@pytest.mark.parametrize("name", FIELDS)
def test_help_gives_every_setting_a_sentence_and_its_default(name, entries):
    spec = specs()[name]
    assert len(spec.sentence.split()) >= 2
    assert spec.sentence in entries[name] or entries[name].count("-") > 2  # argparse breaks words
    if spec.switch:  # its default is its absence
        assert as_dict()[name] is False
        return
    stated = re.search(r"\(default: (.*)\)$", entries[name])[1]
    if spec.shown is not None:  # a rule rather than a value
        assert stated == spec.shown.format(run_name="VARIANT")
        return
    for variant in VARIANTS:
        text = as_text(as_dict("--variant", variant)[name])
        assert stated == text or f"{text} in {variant}" in stated


def test_help_names_no_flag_that_is_not_a_setting(entries):
    assert set(entries) - {"h", "help", "version"} == set(FIELDS)


def another_program():
    """A parser with another name, three flags and a reason why it has no others."""
    return build_parser("p.py", "Another one.", run_name="OTHER", stages=["run"], refusal="no!")


def test_another_program_has_the_flags_that_it_names_only():
    text = another_program().format_help()
    offered = set(re.findall(r"^  --(\w+)", text, re.M))
    assert offered - {"version"} == set(settings.used_by("run"))
    assert {"out", "seed", "n_clusters"} <= offered
    assert text.startswith("usage: p.py ")
    assert "results/NAME/OTHER-seedS" in text
    assert "VARIANT" not in text
    assert vars(another_program().parse_args(["--seed", "3"])) == {"seed": 3}


@pytest.mark.parametrize(
    "flags",
    [
        *(["--hops", "1"], ["--hops=1"], ["--hops"], ["--hops", "0"], ["--n_pcs", "3"]),
        *(["--decoder_dims", "8", "4"], ["--train_centers"], ["--no-train_centers"]),
    ],
)
def test_another_program_refuses_the_other_flags_and_says_why(flags, capsys):
    with pytest.raises(SystemExit) as exit_:
        another_program().parse_args(["--seed", "3", *flags])
    assert exit_.value.code == 2
    name = flags[0].split("=")[0]
    assert capsys.readouterr().err == f"p.py: error: {name} no! (see --help)\n"


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ([], "Quake_Smart-seq2_Limb_Muscle"),
        (["--dataname", "Young"], "Young"),
        (["--dataname", "Young", "--data_dir", "elsewhere"], "Young"),
        (["--data", "some/Pollen/data.h5"], "Pollen"),
        (["--data", "some/folder/brain.h5ad"], "brain"),
        (["--data", "a/brain.h5ad", "b/heart.h5ad", "--data", "c/liver.csv"], "brain+2"),
        (["--data", "a/filtered.h5", "b/filtered.h5"], "a+1"),
        (["--data", "some/folder/brain.h5"], "brain"),
        (["--data", "some/brain.csv.gz"], "brain"),
        (["--data", "some/brain/matrix.mtx.gz"], "brain"),
        (["--data", "some/brain/"], "brain"),
        (["--data", "some/brain.h5ad", "--dataname", "Young"], "brain"),
    ],
)
def test_the_results_are_named_after_the_data(flags, name):
    settings = parse_settings(flags)
    assert settings.name == name
    assert settings.out_dir == Path("results", name, "sctag-seed1")


@pytest.mark.parametrize("path", ["data.h5", "./data.h5", "../here/data.h5", "deeper/../data.h5"])
def test_a_relative_data_h5_is_named_after_its_folder_too(path, tmp_path, monkeypatch):
    folder = tmp_path / "here"
    (folder / "deeper").mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert parse_settings(["--data", path]).name == "here"


def test_the_folder_that_the_command_runs_in_has_a_name(tmp_path, monkeypatch):
    (tmp_path / "brain" / "work").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "brain" / "work")
    assert parse_settings(["--data", "."]).name == "work"
    assert parse_settings(["--data", ".."]).name == "brain"


def test_a_data_h5_one_folder_up_stays_within_results(tmp_path, monkeypatch):
    (tmp_path / "brain" / "work").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "brain" / "work")
    settings = parse_settings(["--data", "../data.h5"])
    assert settings.out_dir == Path("results/brain/sctag-seed1")


def test_variant_and_seed_have_folders_of_their_own():
    settings = parse_settings(["--dataname", "Young", "--variant", "official", "--seed", "7"])
    assert settings.out_dir == Path("results/Young/official-seed7")


def test_out_is_taken_as_given():
    assert parse_settings(["--out", "mine", "--seed", "7"]).out_dir == Path("mine")


def test_settings_as_json_hold_every_field():
    described = parse_settings(["--data", "a/b.h5ad", "--decoder_dims", "8", "4"]).to_json()
    assert list(described) == FIELDS
    assert described["data"] == "a/b.h5ad"
    several = parse_settings(["--data", "a.h5", "b.h5", "--subset", "k=v"])
    described_too = several.to_json()
    assert (described_too["data"], described_too["subset"]) == (["a.h5", "b.h5"], ["k=v"])
    assert Settings.of(**described_too) == several
    assert described["out"] is None
    assert described["decoder_dims"] == [8, 4]


def test_help_and_a_mistyped_flag_import_nothing_slow(request):
    script = """
import sys
import train
for flags in (["--help"], ["--maxiter", "-1"]):
    try:
        train.main(flags)
    except SystemExit as exit_:
        print("status", exit_.code)
slow = {"tensorflow", "keras", "spektral", "scanpy", "anndata", "pandas", "sklearn", "h5py"}
print("slow", sorted(slow & {*sys.modules}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("usage: train.py")
    assert "\nstatus 0\n" in done.stdout
    assert done.stdout.endswith("status 2\nslow []\n")
    assert done.stderr.count("\n") == 1
