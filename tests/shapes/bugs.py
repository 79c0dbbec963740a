"""Shape mistakes made by hand in the right files: what is written instead of what, and what must be said where.

`where` is a piece of the line that must be named; without it, the edited line itself.
"""

from typing import NamedTuple


class Bug(NamedTuple):
    """One edit and the complaint that it must bring."""

    file: str
    old: str
    new: str
    code: str = "shape"
    where: str | None = None


# The shape mistakes of the catalogue that learners really made.
CATALOGUE = [
    Bug("attention", "return torch.nan_to_num(weights)", "return torch.nan_to_num(weights @ k)"),
    Bug(
        "attention",
        'weights, v, "... query key, ... key d_v -> ... query d_v"',
        'weights, v, "... key query, ... key d_v -> ... query d_v"',
        "einops-name",
    ),  # softmax over queries
    Bug(
        "attention",
        'rearrange(tokens != pad, "batch key -> batch 1 key")',
        'rearrange(tokens != pad, "batch key -> batch key 1")',
    ),  # padding on the query axis
    Bug(
        "attention",
        'k, "batch head key d_k -> batch head d_k key"',
        'q, "batch head query d_k -> batch head d_k query"',
        "shape",
        "torch.where(mask",
    ),  # QQᵀ
    Bug("nano", "self.bias[:, :, :T, :T]", "self.bias[:, :, : self.n_head, : self.n_head]"),  # mask cut by heads
    Bug("nano", "self.bias[:, :, :T, :T]", "self.bias"),  # mask not cut
    Bug(
        "nano", "pos = torch.arange(0, t, dtype", "pos = torch.arange(0, b, dtype", "shape", "self.wpe(pos)"
    ),  # positions by batch
    Bug("nano", "y = y.transpose(1, 2).contiguous().view(B, T, C)", "y = y.contiguous().view(B, T, self.n_head)"),
    Bug("original", "x, memory, memory_mask", "x, memory, mask"),  # causal mask on cross-attention
    Bug(
        "original",
        "memory_mask = (source != self.pad)",
        "memory_mask = (target != self.pad)",
        "shape",
        "block(x, memory",
    ),
    Bug(
        "annotated",
        "lin(x).view(nbatches, -1, self.h, self.d_k)",
        "lin(x).view(nbatches, query.size(1), self.h, self.d_k)",
    ),  # query's length for keys
    Bug("annotated", "lambda x: self.src_attn(x, m, m, src_mask)", "lambda x: self.src_attn(x, m, m, tgt_mask)"),
    Bug(
        "redesign",
        "weights = scores.masked_fill(~visible",
        "weights = scores.masked_fill(~visible[: self.heads, : self.heads]",
    ),
    Bug(
        "vit",
        'rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=size, q=size)',
        'rearrange(images, "b c (h p) (w q) -> b h w (p q c)", p=size, q=size)',
    ),
    Bug(
        "positions", "return self.weight[offset : offset + length]", "return self.weight[offset]"
    ),  # one vector at every position
]

BUGS = [
    Bug(
        "positions",
        "position = torch.arange(length, dtype=torch.float32, device=device).unsqueeze(1)",
        "position = torch.arange(length, dtype=torch.float32, device=device)",
        "shape",
        "torch.sin(position",
    ),
    Bug(
        "positions",
        "table = torch.zeros(length, d_model, device=device)",
        "table = torch.zeros(d_model, length, device=device)",
        "shape",
        "table[:, 0::2]",
    ),
    Bug(
        "positions",
        "torch.arange(0, d_model, 2, device=device)",
        "torch.arange(0, d_model, device=device)",
        "shape",
        "table[:, 0::2]",
    ),
    Bug(
        "positions", "angle = position[:, None] * frequency[None, :]", "angle = position[None, :] * frequency[None, :]"
    ),
    Bug(
        "positions", "dim=-1)\n    return rotated.flatten(-2)", "dim=-1)\n    return rotated", "shape", "return rotated"
    ),
    Bug("positions", "return rotated.flatten(-2)", "return rotated.flatten(-3)"),
    Bug(
        "positions",
        "angle = torch.cat([angle, angle], dim=-1)",
        "angle = torch.cat([angle, angle], dim=0)",
        "shape",
        "return x * angle.cos()",
    ),
    Bug(
        "positions",
        "turned = torch.cat((-right, left), dim=-1)",
        "turned = torch.cat((-right, left), dim=-2)",
        "shape",
        "return x * angle.cos()",
    ),
    Bug("positions", "slopes[:, None, None] * distance", "slopes[:, None] * distance"),
    Bug(
        "positions",
        "return slopes[:, None, None] * distance.clamp(max=0).float()",
        "return distance.clamp(max=0).float()",
    ),
    Bug(
        "attention",
        "... query d_k, ... key d_k -> ... query key",
        "... query d_k, ... key d_k -> ... key query",
        "shape",
        "scores = scores + bias",
    ),
    Bug(
        "attention",
        "... query d_k, ... key d_k -> ... query key",
        "... query d_k, ... d_k key -> ... query key",
        "einops",
    ),
    Bug(
        "attention",
        "... query d_k, ... key d_k -> ... query key",
        "... query d_k, ... key d_v -> ... query key d_x",
        "einops",
    ),
    Bug("attention", 'return einsum(weights, v, "', 'return einsum(v, weights, "', "einops-name"),
    Bug(
        "attention",
        "weights = attention_weights(q, k, mask, bias)\n",
        "weights = attention_weights(k, q, mask, bias)\n",
    ),
    Bug(
        "attention",
        "weights = attention_weights(q, k, mask, bias)\n",
        "weights = attention_weights(q, v, mask, bias)\n",
    ),
    Bug("attention", 'scores = q @ rearrange(k, "batch head key d_k -> batch head d_k key")', "scores = q @ k"),
    Bug(
        "attention",
        'k, "batch head key d_k -> batch head d_k key"',
        'k, "batch key head d_k -> batch head d_k key"',
        "einops-name",
    ),
    Bug("attention", 'k, "batch head key d_k -> batch head d_k key"', 'k, "batch key d_k -> batch d_k key"', "einops"),
    Bug(
        "attention",
        'torch.einsum("bhqk,bhkd->bhqd", weights, v)',
        'torch.einsum("bhqk,bhqd->bhkd", weights, v)',
        "einops",
    ),
    Bug("attention", 'torch.einsum("bhqk,bhkd->bhqd", weights, v)', 'torch.einsum("bhqk,bhkd->bqhd", weights, v)'),
    Bug("attention", "weights = weights / weights.sum(-1, keepdim=True)", "weights = weights / weights.sum(-1)"),
    Bug("attention", "scores = scores - scores.amax(dim=-1, keepdim=True)", "scores = scores - scores.amax(dim=-1)"),
    Bug("attention", 'tokens != pad, "batch key -> batch 1 key"', 'tokens != pad, "batch key -> 1 batch key"'),
    Bug("heads", '"... position (head d) -> ... head position d"', '"... position (head d) -> ... position head d"'),
    Bug(
        "heads",
        '"... position (head d) -> ... head position d", head=heads',
        '"... position (head d) -> ... head position d"',
        "einops",
    ),
    Bug("heads", '"... head position d -> ... position (head d)"', '"... head position d -> ... head (position d)"'),
    Bug(
        "heads",
        '"... head position d -> ... position (head d)"',
        '"... head position d -> ... position head"',
        "einops",
    ),
    Bug("heads", "self.output(merge_heads(out))", "self.output(out)"),
    Bug(
        "heads",
        "self.output = nn.Linear(heads * d_v, d_model",
        "self.output = nn.Linear(heads * d_v, d_v",
        "shape",
        "return self.dropout",
    ),
    Bug(
        "heads",
        "self.key = nn.Linear(d_model, heads * d_k",
        "self.key = nn.Linear(d_model, d_k",
        "shape",
        "out = attention(",
    ),
    Bug("blocks", "mean = x.mean(dim=-1, keepdim=True)", "mean = x.mean(dim=-1)", "shape", "return (x - mean)"),
    Bug(
        "blocks", "self.up = nn.Linear(d_model, d_ff)", "self.up = nn.Linear(d_ff, d_model)", "shape", "up = self.up(x)"
    ),
    Bug(
        "blocks",
        "self.down = nn.Linear(d_ff, d_model)",
        "self.down = nn.Linear(d_ff, d_ff)",
        "shape",
        "return self.down",
    ),
    Bug(
        "blocks",
        "self.down = nn.Linear(d_ff, d_model)",
        "self.down = nn.Linear(d_model, d_model)",
        "shape",
        "return self.down",
    ),
    Bug(
        "blocks",
        "self.gate = nn.Linear(d_model, d_ff)",
        "self.gate = nn.Linear(d_model, d_model)",
        "shape",
        "F.silu(self.gate(x))",
    ),
    Bug("blocks", "self.norm_1 = LayerNorm(d_model)", "self.norm_1 = LayerNorm(d_ff)", "shape", "self.norm_1"),
    Bug("blocks", "return x + self.feed_forward(self.norm_2(x))", "return self.feed_forward.up(self.norm_2(x))"),
    Bug(
        "language_model",
        "self.head = nn.Linear(d_model, vocab, bias=False)",
        "self.head = nn.Linear(vocab, d_model, bias=False)",
        "shape",
        "return self.head",
    ),
    Bug(
        "language_model",
        "self.tokens = nn.Embedding(vocab, d_model)",
        "self.tokens = nn.Embedding(vocab, max_length)",
        "shape",
        "x = x + self.positions",
    ),
    Bug("language_model", "return self.head(self.norm(x))", "return self.norm(x)"),
    Bug("language_model", "x = x + self.positions(length)", "x = x + self.positions(self.max_length)"),
    Bug(
        "language_model",
        "mask = causal_mask(length)\n",
        "mask = causal_mask(length)\n        x = self.tokens(x)\n",
        "shape",
        "x = block(x, mask, bias)",
    ),
    Bug(
        "language_model",
        'rearrange(logits, "b p v -> (b p) v")',
        'rearrange(logits, "b p v -> b (p v)")',
        "shape",
        "return F.cross_entropy",
    ),
    Bug(
        "language_model",
        'rearrange(logits, "b p v -> (b p) v"), rearrange(targets, "b p -> (b p)")',
        "logits, targets",
        "shape",
        "return F.cross_entropy(",
    ),
    Bug(
        "language_model", "log_probabilities.gather(-1, targets.unsqueeze(-1))", "log_probabilities.gather(-1, targets)"
    ),
    Bug("language_model", "return -picked.mean()", "return -picked"),
    Bug(
        "language_model",
        "return torch.multinomial(logits.softmax(-1), 1).squeeze(-1)",
        "return torch.multinomial(logits.softmax(-1), 1)",
    ),
    Bug("language_model", "torch.cat([tokens, following[:, None]], dim=1)", "torch.cat([tokens, following], dim=1)"),
    Bug("language_model", "following = sample(logits[:, -1], top_k=3)", "following = sample(logits, top_k=3)"),
    Bug("data", "torch.cat([first, first.flip(1)], dim=1)", "torch.cat([first, first.flip(1)], dim=0)"),
    Bug("data", "== targets[:, half:]", "== targets"),
    Bug(
        "nano",
        "nn.Linear(config.n_embd, 3 * config.n_embd)",
        "nn.Linear(config.n_embd, config.n_embd)",
        "shape",
        "q, k, v = self.c_attn",
    ),
    Bug("nano", "k.transpose(-2, -1)", "k"),
    Bug(
        "nano",
        "k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)",
        "k = k.view(B, T, self.n_head, C).transpose(1, 2)",
    ),
    Bug(
        "nano",
        "q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)",
        "q = q.view(B, T, self.n_head, C // self.n_head)",
        "shape",
        "q @ k.transpose",
    ),
    Bug("nano", "B, T, C = x.size()", "B, T = x.size()"),
    Bug(
        "nano",
        "nn.Linear(4 * config.n_embd, config.n_embd)",
        "nn.Linear(config.n_embd, config.n_embd)",
        "shape",
        "return self.c_proj(x)",
    ),
    Bug("nano", "return logits, loss", "return x, loss"),
    Bug(
        "annotated",
        "self.w_2 = nn.Linear(d_ff, d_model)",
        "self.w_2 = nn.Linear(d_model, d_ff)",
        "shape",
        "return self.w_2",
    ),
    Bug("annotated", "self.pe[:, : x.size(1)]", "self.pe[:, : x.size(2)]"),
    Bug(
        "annotated",
        "self.proj = nn.Linear(d_model, vocab)",
        "self.proj = nn.Linear(d_model, d_model)",
        "shape",
        "return torch.log_softmax",
    ),
    Bug(
        "annotated",
        "torch.matmul(query, key.transpose(-2, -1))",
        "torch.matmul(query, key)",
        "shape",
        "x, self.attn = attention",
    ),
    Bug("annotated", "self.h * self.d_k)", "self.h)", "shape", "return self.linears[-1](x)"),
    Bug(
        "original",
        "self.split(self.key(context)), self.split(self.value(context))",
        "self.split(self.key(context)), self.split(self.value(x))",
        "shape",
        "F.scaled_dot",
    ),
    Bug("original", "return self.output(out.transpose(1, 2).flatten(2))", "return self.output(out.flatten(2))"),
    Bug(
        "original",
        "x.unflatten(-1, (self.heads, self.d_k)).transpose(1, 2)",
        "x.unflatten(-1, (self.d_k, self.heads)).transpose(1, 2)",
    ),
    Bug("original", "self.encode(source), source)", "source, self.encode(source))"),
    Bug("original", "return self.head(x)", "return x"),
    Bug("original", "following.unsqueeze(1)", "following.unsqueeze(0)"),
    Bug("recurrence", "x @ self.weight_ih.T", "x @ self.weight_ih"),
    Bug(
        "recurrence",
        "torch.randn(4 * hidden_size, hidden_size)",
        "torch.randn(hidden_size, 4 * hidden_size)",
        "shape",
        "gates =",
    ),
    Bug("recurrence", "i, f, g, o = gates.chunk(4, dim=-1)", "i, f, g = gates.chunk(4, dim=-1)"),
    Bug("recurrence", "gates.chunk(4, dim=-1)", "gates.chunk(4, dim=0)", "shape", "c = f.sigmoid()"),
    Bug("recurrence", "return h, c", "return gates, c"),
    Bug("recurrence", "self.query(query)[:, None, :] + self.key(keys)", "self.query(query) + self.key(keys)"),
    Bug("recurrence", "scores = self.score(hidden).squeeze(-1)", "scores = self.score(hidden)", "shape", "masked_fill"),
    Bug("recurrence", "torch.bmm(weights.unsqueeze(1), keys)", "torch.bmm(weights.unsqueeze(2), keys)"),
    Bug("recurrence", "return torch.stack(outputs, dim=1)", "return torch.stack(outputs)"),
    Bug("redesign", "split([3 * d_model, self.d_ff], dim=-1)", "split([2 * d_model, self.d_ff], dim=-1)"),
    Bug("redesign", '"head -> head 1 1"', '"head -> head 1"', "shape", "return alpha"),
    Bug(
        "redesign",
        "batch head i j, batch head j d_v -> batch head i d_v",
        "batch head i j, batch head i d_v -> batch head j i",
        "shape",
        "return rearrange(out",
    ),
    Bug(
        "redesign",
        "self.output(torch.cat([attended, F.gelu(up)], dim=-1))",
        "self.output(torch.cat([attended, F.gelu(up)], dim=1))",
    ),
    Bug("redesign", "torch.zeros(d_model, d_model)", "torch.zeros(d_model, heads)", "shape", "x @ self.delta"),
    Bug("vit", ".flatten(2).transpose(1, 2)", ".flatten(2)"),
    Bug("vit", "weights = (torch.matmul(q, k.transpose(-1, -2))", "weights = (torch.matmul(q, k.transpose(1, 2))"),
    Bug("vit", "return self.head(x[:, 0])", "return self.head(x)"),
    Bug("vit", '"d -> b d", b=x.shape[0]', '"d -> b d"', "einops"),
    Bug(
        "vit",
        'first, rest = unpack(packed, shapes, "b * d")',
        'rest, first = unpack(packed, shapes, "b * d")',
        "shape",
        "return first, rest",
    ),
    Bug("scratch", "... d_in, d_out d_in -> ... d_out", "... d_in, d_in d_out -> ... d_out", "einops"),
    Bug(
        "scratch", "torch.empty(d_out, d_in)", "torch.empty(d_in, d_out)", "einops-name", "return einsum(x, self.weight"
    ),
    Bug("scratch", "self.w2 = Linear(d_ff, d_model)", "self.w2 = Linear(d_model, d_ff)", "shape", "return self.w2"),
    Bug("scratch", '"... (half two) -> ... half two"', '"... (two half) -> ... half three"', "einops"),
    Bug(
        "scratch",
        "log_sum = torch.log(shifted.exp().sum(-1))",
        "log_sum = torch.log(shifted.exp().sum(0))",
        "shape",
        "return (log_sum - picked)",
    ),
    Bug(
        "modern",
        "self.wk = nn.Linear(d_model, n_kv_heads * self.head_dim",
        "self.wk = nn.Linear(d_model, n_heads * self.head_dim",
        "shape",
        "k = self.wk(x)",
    ),
    Bug(
        "modern",
        "k = repeat_kv(k, self.n_heads // self.n_kv_heads)",
        "k = repeat_kv(k, self.n_kv_heads)",
        "shape",
        "F.scaled_dot",
    ),
    Bug("modern", '"bpd,edf->bpef"', '"bpd,efd->bpef"', "einops"),
    Bug("modern", "(out * gates.unsqueeze(-1)).sum(dim=2)", "(out * gates).sum(dim=2)"),
    Bug("modern", "(x * kept[..., None]).sum(1)", "(x * kept).sum(1)"),
    Bug(
        "modern",
        '"batch group key d_k -> batch (group times) key d_k"',
        '"batch group key d_k -> batch group (key times) d_k"',
    ),
    Bug("modern", 'rearrange(a, "n d -> n 1 d")', 'rearrange(a, "n d -> 1 n d")'),
    Bug("modern", 'Float[Tensor, "n d"], b', 'Float[Tensor, "n d)"], b', "shape-annotation"),
    Bug(
        "house",
        "value = split_heads(self.value(source), self.heads)",
        "value = split_heads(self.value(x), self.heads)",
        "einops",
        "scores.softmax(dim=-1), value",
    ),
    Bug(
        "house",
        "key = split_heads(self.key(source), self.heads)",
        "key = split_heads(self.key(x), self.heads)",
        where="scores = scores + bias",
    ),
    Bug(
        "house",
        "self.value(source), self.heads)",
        "self.value(source).reshape(x.shape[0], x.shape[1], -1), self.heads)",
        "einops",
        "scores.softmax(dim=-1), value",
    ),
    Bug("house", "return self.output(merge_heads(out))", "return merge_heads(out)"),
    Bug("house", "return self.output(merge_heads(out))", "return self.output(out)"),
    Bug(
        "house",
        "self.output = nn.Linear(heads * d_v, d_model)",
        "self.output = nn.Linear(heads * d_k, d_model)",
        where="return self.output(merge_heads(out))",
    ),
    Bug(
        "house",
        "self.output = nn.Linear(heads * d_v, d_model)",
        "self.output = nn.Linear(d_model, d_model)",
        where="return self.output(merge_heads(out))",
    ),
    Bug(
        "house",
        "self.key = nn.Linear(d_model, heads * d_k)",
        "self.key = nn.Linear(d_model, heads * d_v)",
        "einops",
        where='"b h q d, b h k d -> b h q k"',
    ),
    Bug("house", '"b h q d, b h k d -> b h q k"', '"b h q d, b h k d -> b h k q"', where="scores = scores + bias"),
    Bug(
        "house",
        'scores.softmax(dim=-1), value, "b h q k, b h k d -> b h q d"',
        'scores.softmax(dim=-1), value, "b h q k, b h k d -> b h k d"',
        where="return self.output(",
    ),
    Bug(
        "house",
        "out = einsum(scores.softmax(dim=-1), value",
        "out = einsum(scores.softmax(dim=-1), query",
        where="return self.output(",
    ),
    Bug(
        "house",
        "query = torch.arange(keys - queries, keys)",
        "query = torch.arange(keys)",
        "einops-name",
        '"query -> query 1"',
    ),
    Bug("house", "causal_mask(tokens.shape[1])", "causal_mask(x.shape[-1])", where="attention(x, mask=mask)"),
    Bug("house", "causal_mask(tokens.shape[1])", "causal_mask(tokens.shape[0])", where="attention(x, mask=mask)"),
    Bug("house", "self.positions(tokens.shape[1])", "self.positions(tokens.shape[0])"),
    Bug("house", "self.positions(tokens.shape[1])", "self.positions(len(tokens))"),
    Bug(
        "house",
        "self.down = nn.Linear(d_ff, d_model)",
        "self.down = nn.Linear(d_model, d_ff)",
        where="return self.down(hidden)",
    ),
    Bug(
        "house",
        "self.down = nn.Linear(d_ff, d_model)",
        "self.down = nn.Linear(4 * d_model, d_model)",
        where="return self.down(hidden)",
    ),
    Bug(
        "house",
        "self.gate = nn.Linear(d_model, d_ff) if",
        "self.gate = nn.Linear(d_model, d_model) if",
        where="hidden = self.bend",
    ),
    Bug("house", "return self.weight[offset : offset + length]", "return self.weight"),
    Bug("house", "rows * rows.shape[-1] ** 0.5", "rows.sum(-1)"),
    Bug("house", "(batch position) -> batch position", "(batch position) -> position batch", "einops-name"),
    Bug("house", '"bpp->b"', '"bpp->p"'),
    Bug("house", '"bpp->b"', '"bbp->b"', "einops"),
    Bug("house", "return self.head(self.norm(x))", "return self.norm(x)"),
    Bug("house", "return self.head(self.norm(x))", "return self.norm(self.head(x))"),
    Bug(
        "house",
        "F.linear(x, weight).chunk(3, dim=-1)",
        "F.linear(weight, x).chunk(3, dim=-1)",
        where="for part in self.project(x))",
    ),
    Bug("house", "F.linear(x, weight).chunk(3, dim=-1)", "F.linear(x, weight).chunk(2, dim=-1)", where="q, k, v = "),
]
