"""The export as a user types it."""

from __future__ import annotations


def test_it_says_what_it_wrote(tmp_path, run_here):
    done = run_here(
        "export_model.py",
        *["--model_name", "bard-llama-4x8", "--uniform_heads", "6", "--format", "uniform", "--output_path", "small"],
        *["--max_length", "32", "--calibration_blocks", "4", "--test_blocks", "2"],
    )
    assert done.returncode == 0, done.stderr
    assert "MistralForCausalLM" in done.stdout
    assert done.stdout.endswith("model: small\n")
    assert done.stderr == ""
    assert (tmp_path / "small" / "model.safetensors").exists()


def test_bad_input_is_one_sentence_exit_2(tmp_path, run_here):
    done = run_here("export_model.py", "--output_path", "/proc/nope")
    assert done.returncode == 2
    assert done.stderr == "error: No such file or directory: /proc/nope\n"
    assert not (tmp_path / "runs").exists()


def test_help_reads(run_here):
    done = run_here("export_model.py", "--help")
    assert done.returncode == 0
    assert "masked (stock shapes)" in done.stdout
