"""Run as a program by test_numerics.py: sets up the trainer's parts and prints what they compute as JSON."""

import json
import sys

import numpy
import torch

from quantctl.data.tokenizer import build_tokenizer
from quantctl.pretrain import parallel
from quantctl.pretrain.arguments import parse
from quantctl.pretrain.data import Samples, build_datasets
from quantctl.pretrain.model import build_model
from quantctl.pretrain.optimizer import MasterAdamW
from quantctl.pretrain.schedule import build_schedule

args = parse(sys.argv[1:])
tokenizer = build_tokenizer(args)
device = parallel.start(args)
samples = Samples(build_datasets(args, tokenizer)[0], args, device)
mask = torch.ones(args.seq_length, args.seq_length, dtype=torch.bool).triu(1)[None, None]
model = build_model(args, device)
optimizer = MasterAdamW(model, args)
build_schedule(args, optimizer).step(increment=args.global_batch_size)


def backward(*batches) -> list[torch.Tensor]:
    """Accumulated gradients of the batches, as the optimizer holds them."""
    optimizer.zero_grad()
    for batch in batches:
        model(batch["tokens"], batch["position_ids"], mask, labels=batch["labels"]).mean().backward()
    return [gradient.clone() for gradient in optimizer.gradients]


first, second = samples.next(), samples.next()
alone = zip(backward(first), backward(second), strict=True)
together = backward(first, second)
sums_equal = all(torch.equal(a + b, c) for (a, b), c in zip(alone, together, strict=True))

# one step, beside AdamW in float64 by its formula; the gradients' norm is above --clip-grad
before = [master.double().numpy() for master in optimizer.masters]
gradients = [gradient.double().numpy() for gradient in together]
norm = numpy.sqrt(sum((g**2).sum() for g in gradients))
reported = optimizer.step()
scale = args.clip_grad / (reported + 1e-6)
group = {id(p): g for g in optimizer.param_groups for p in g["params"]}
lr = optimizer.param_groups[0]["lr"]
worst, decayed = 0.0, {}
for name, master, w, g in zip(optimizer.names, optimizer.masters, before, gradients, strict=True):
    decay = group[id(master)]["weight_decay"]
    decayed[name] = decay
    m_hat, v_hat = g * scale, (g * scale) ** 2  # after one step the bias corrections cancel 1 - beta
    expected = w - lr * decay * w - lr * m_hat / (numpy.sqrt(v_hat) + args.adam_eps)
    error = numpy.abs(master.double().numpy() - expected) / (numpy.abs(w) + lr)
    worst = max(worst, float(error.max()))

print(
    json.dumps(
        {
            "sums_equal": sums_equal,
            "dtypes": sorted({str(p.dtype) for p in model.parameters()}),
            "norm": [float(norm), reported],
            "parameters": sum(g.size for g in gradients),
            "worst_step_error": worst,
            "weight_decay": decayed,
            "lr": lr,
            "inv_freq": model.rotary_pos_emb.inv_freq.tolist(),
            "angles": list(model.rotary_pos_emb(args.seq_length).shape),
        }
    )
)
parallel.stop()
