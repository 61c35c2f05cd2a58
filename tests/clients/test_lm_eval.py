"""lm-eval harness: ``simple_evaluate`` on a task in local files scores a masked and a compacted model alike."""

from __future__ import annotations

import json

import pytest
import torch

from tests.clients.conftest import one_head

pytest.importorskip("lm_eval", reason="lm-eval is not installed: make clients installs it")
QUESTIONS = [("To be or not to", " be", " xq"), ("My lord, I", " am", " zzz"), ("What say", " you", " qqq")]
TASK = """\
task: endings
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/questions.jsonl}, cache_dir: FOLDER/cache}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: "{{[good, bad]}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def test_simple_evaluate_on_a_local_task(loaded, tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lines = [json.dumps({"text": text, "good": good, "bad": bad}) for text, good, bad in QUESTIONS]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    (tmp_path / "endings.yaml").write_text(TASK.replace("FOLDER", str(tmp_path)))
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
    model = loaded.model
    model.prune(one_head(model))

    def scores(scored):
        lm = HFLM(pretrained=scored, tokenizer=loaded.tokenizer, batch_size=2, max_length=64)
        result = simple_evaluate(model=lm, tasks=["endings"], task_manager=tasks, log_samples=True)
        assert result["results"]["endings"]["acc,none"] == 1.0
        return torch.tensor(
            [[choice[0] for choice in sample["filtered_resps"]] for sample in result["samples"]["endings"]]
        )

    masked = scores(model)
    torch.testing.assert_close(scores(model.compact()), masked, rtol=1e-4, atol=1e-4)
    for (text, good, _), said in zip(QUESTIONS, masked[:, 0], strict=True):
        prompt, whole = (loaded.tokenizer(part, return_tensors="pt").input_ids for part in (text, text + good))
        with torch.no_grad():
            chances = model(whole).logits.log_softmax(-1)[0, prompt.shape[1] - 1 : -1]
        own = chances.gather(-1, whole[0, prompt.shape[1] :, None]).sum()
        torch.testing.assert_close(said, own, rtol=1e-3, atol=1e-3)
