"""Trains the built-in model with PyTorch on one CUDA card; `train.py` is the same recipe in MLX.

A run lasts `--seconds` and moves the learning rate linearly from `--rate-from` to `--rate-to` (shares of the peak), so
that one training can be several runs, each going on from the last one's checkpoint. Text is generated while training by
`--workers` processes; when they fall behind, sequences seen a while ago are used again rather than waiting. Ends by
writing the weights, float32, in files below 16 MB, and by measuring the table's rows on unseen names.

    python -m basemlx.engine.tiny.training.train_torch --tokenizer FOLDER --out FOLDER --seconds 540 \
        --rate-from 1 --rate-to 0.5 --checkpoint /tmp/tiny.pt
"""

import argparse
import json
import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from basemlx.engine.tiny.training.architecture import SHAPE
from basemlx.engine.tiny.training.cases import ROWS, case
from basemlx.engine.tiny.training.muon_torch import Muon
from basemlx.engine.tiny.training.packing import Encoder
from basemlx.engine.tiny.training.supply import Supply
from basemlx.engine.tiny.training.transformer_torch import Transformer, layer_output

_FILE_BYTES = 15_000_000


def on_device(tokens: NDArray[np.uint16], counted: NDArray[np.bool_], device: str) -> tuple[Tensor, Tensor]:
    """Tokens and labels, [B, T]: a label is the next token where the loss counts it, else -100."""
    ids, marks = torch.from_numpy(tokens.astype(np.int32)), torch.from_numpy(counted)
    if device == "cuda":
        ids, marks = ids.pin_memory(), marks.pin_memory()
    ids, marks = ids.to(device, non_blocking=True).long(), marks.to(device, non_blocking=True)
    labels = ids.roll(-1, 1).masked_fill(~marks.roll(-1, 1), -100)
    labels[:, -1] = -100
    return ids, labels


@dataclass(frozen=True, slots=True)
class Prepared:
    """An evaluation case as token ids; the completion begins at `begin`."""

    row: str
    prompt: str
    completion: str
    ids: list[int]
    begin: int


def prepare(tokenizer_file: str, row: str, thinking: bool, count: int) -> list[Prepared]:
    tokenizer = Tokenizer.from_file(tokenizer_file)
    made: list[Prepared] = []
    for number in range(count):
        sample = case(row, number, thinking)
        prompt, completion = sample.prompt(), sample.completion()
        ids: list[int] = tokenizer.encode(prompt).ids
        name = f"{row} thinking" if thinking else row
        made.append(Prepared(name, prompt, completion, ids + tokenizer.encode(completion).ids, len(ids)))
    return made


def measure(
    model: Transformer, tokenizer: Tokenizer, device: str, rows: list[list[Prepared]]
) -> tuple[dict[str, float], list[str]]:
    """The share of whole turns that are right to the last token, in 4 bits, and what went wrong in the others."""
    shares: dict[str, float] = {}
    wrong: list[str] = []
    for cases in rows:
        right = 0
        for start in range(0, len(cases), 32):
            part = cases[start : start + 32]
            width = (max(len(one.ids) for one in part) + 127) // 128 * 128
            tokens = torch.zeros(len(part), width, dtype=torch.long)
            for at, one in enumerate(part):
                tokens[at, : len(one.ids)] = torch.tensor(one.ids)
            with torch.no_grad():
                best = model.logits(tokens.to(device), True).argmax(-1).cpu()
            for at, one in enumerate(part):
                told = best[at, one.begin - 1 : len(one.ids) - 1].tolist()
                gold = one.ids[one.begin :]
                if told == gold:
                    right += 1
                    continue
                first = next(place for place, (a, b) in enumerate(zip(told, gold, strict=True)) if a != b)
                said = tokenizer.decode(gold[:first], skip_special_tokens=False)
                slip = tokenizer.decode([told[first]], skip_special_tokens=False)
                wrong.append(f"[{one.row}] {one.prompt[-1500:]}>>>{said}@@{slip}@@ RIGHT: {one.completion}")
        shares[cases[0].row] = right / len(cases)
    return shares, wrong


def save_weights(model: Transformer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, weight in model.state_dict().items():
        weight = weight.detach().float().cpu().contiguous()
        bytes_ = weight.numel() * 4
        if size + bytes_ > _FILE_BYTES:
            files.append({})
            size = 0
        files[-1][name] = weight
        size += bytes_
    for number, content in enumerate(files):
        save_file(content, str(folder / f"weights-{number}.safetensors"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the built-in model on CUDA.")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate-from", type=float, default=1.0)
    parser.add_argument("--rate-to", type=float, default=0.0)
    parser.add_argument("--matrix-rate", type=float, default=0.025)
    parser.add_argument("--vector-rate", type=float, default=0.003)
    parser.add_argument("--checkpoint", type=Path, help="goes on from here if it exists; written at the end")
    parser.add_argument(
        "--start", type=Path, nargs="+", help="weights to start from, as an earlier run wrote them"
    )
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batch-tokens", type=int, default=131_072)
    parser.add_argument("--long-share", type=float, default=0.02)
    parser.add_argument(
        "--imitate-from", type=float, default=2.0, help="share of the run after which 4 bits are imitated"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--cases", type=int, default=256)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()

    file = str(options.tokenizer / "tokenizer.json")
    supply = Supply(file, options.seed, options.length, options.long_share, options.workers, "fork")
    encoder = Encoder(Tokenizer.from_file(file))
    pool = multiprocessing.get_context("fork").Pool(2)  # before CUDA starts: its state must not be forked
    jobs = [(file, row, thinking, options.cases) for row in ROWS for thinking in (False, True)]
    prepared = pool.starmap_async(prepare, jobs, chunksize=1)
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    model = Transformer(SHAPE).to(options.device)
    matrices = [
        weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name
    ]
    others = [weight for name, weight in model.named_parameters() if weight.ndim == 1 or "embed" in name]
    muon = Muon(matrices, options.matrix_rate)
    adam = torch.optim.AdamW(
        others, lr=options.vector_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=options.device == "cuda"
    )
    warm_steps, done_steps = 200, 0
    if options.start:
        found = {name: weight for file in options.start for name, weight in load_file(str(file)).items()}
        model.load_state_dict({name: weight.float() for name, weight in found.items()})
    if options.checkpoint and options.checkpoint.exists():
        state = torch.load(options.checkpoint, map_location=options.device, weights_only=True)
        model.load_state_dict(state["model"])
        done_steps = state["steps"]
        if "adam" in state:
            adam.load_state_dict(state["adam"])
            for speed, saved in zip(muon.speeds, state["muon"], strict=True):
                speed.copy_(saved)
        print(f"going on from step {done_steps}", flush=True)
    if options.device == "cuda":
        model.compile_parts()
        muon.compile()

    rows = options.batch_tokens // options.length
    begin = last = time.monotonic()
    started = False
    step, lost, tokens_seen = 0, torch.zeros((), device=options.device), 0
    batch = on_device(*supply.batch(rows), options.device)
    while True:
        now = time.monotonic()
        share = (now - begin) / options.seconds
        if share >= 1:
            break
        factor = options.rate_from + (options.rate_to - options.rate_from) * share
        factor *= min(1.0, (done_steps + step + 1) / warm_steps)
        imitate = share >= options.imitate_from
        loss = model.loss(*batch, imitate)
        loss.backward()  # type: ignore[no-untyped-call]
        batch = on_device(*supply.batch(rows), options.device)
        torch.nn.utils.clip_grad_norm_(others, 1.0, foreach=True)
        muon.step(factor)
        for group in adam.param_groups:
            group["lr"] = options.vector_rate * factor
        adam.step()
        for weight in matrices + others:
            weight.grad = None
        step += 1
        lost += loss.detach()
        tokens_seen += options.batch_tokens
        if not started and step == 5:
            torch.cuda.synchronize() if options.device == "cuda" else None
            print(f"first 5 steps: {time.monotonic() - begin:.1f} s", flush=True)
            started = True
        if step % 200 == 0:
            mean = float(lost) / 200
            lost.zero_()
            passed = time.monotonic() - last
            last = time.monotonic()
            rate = 200 * options.batch_tokens / passed / 1e6
            print(
                f"step {done_steps + step} loss {mean:.4f} factor {factor:.3f} {rate:.2f} M tok/s "
                f"waited {supply.waited_s:.1f} s again {supply.used_again} 4bit {imitate}",
                flush=True,
            )
    supply.close()
    if options.checkpoint:
        options.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "model": model.state_dict(),
            "adam": adam.state_dict(),
            "muon": muon.speeds,
            "steps": done_steps + step,
        }
        torch.save(state, options.checkpoint)
    save_weights(model, options.out)
    print(f"{step} steps, {tokens_seen / 1e6:.0f} M tokens, {time.monotonic() - begin:.0f} s", flush=True)
    model.run_layer = layer_output  # sizes differ from batch to batch here: no compilation
    shares, wrong = measure(model, encoder.tokenizer, options.device, prepared.get())
    print(json.dumps(shares), flush=True)
    (options.out / "measured.json").write_text(
        json.dumps({"shares": shares, "wrong": wrong}, ensure_ascii=False, indent=1)
    )


if __name__ == "__main__":
    main()
