#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""PyTorch CPU training benchmark of a small DeepSeek-V2-style MoE language model.

The peer to beat: eager PyTorch (written for 1.13, CPU), made as fast as is practical
in Python: hand-written backward for norm, MLA core, SwiGLU, grouped experts and
linear+cross-entropy (autograd.Function with out= GEMMs and no redundant copies),
sort-based dropless dispatch with one GEMM per expert over a contiguous slice,
causal attention in query blocks, AdamW over cache-sized chunks.

  /usr/bin/python3 torch_moe_train.py --preset small --dtype bf16
"""
import argparse, json, math, os, resource, sys, time

# glibc returns every block above 32 MiB to the kernel, and page faults then cost more than the
# GEMMs' memory traffic; keep freed memory, in huge pages. AVX-512 element-wise kernels are off by
# default in Debian's build. All must be in the environment before the process starts.
ENV = {'MALLOC_MMAP_THRESHOLD_': '4294967296', 'MALLOC_TRIM_THRESHOLD_': '17179869184', 'MALLOC_TOP_PAD_': '268435456',
       'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1', 'ATEN_CPU_CAPABILITY': 'avx512', 'OMP_NUM_THREADS': '2'}
if __name__ == '__main__' and not os.environ.get('PEER_NO_REEXEC') and any(k not in os.environ for k in ENV):
    os.execve(sys.executable, [sys.executable, '-B'] + sys.argv, {**ENV, **os.environ})

import torch
import torch.nn as nn
import torch.nn.functional as F

Fn = torch.autograd.Function


# ------------------------------------------------------------------ building blocks
class RMSNormFn(Fn):
    @staticmethod
    def forward(ctx, x, w, eps):
        n = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        rstd = (n.square_().div_(x.shape[-1]).add_(eps)).rsqrt_()
        xh = x * rstd
        ctx.save_for_backward(xh, w, rstd)
        return xh * w

    @staticmethod
    def backward(ctx, dy):
        xh, w, rstd = ctx.saved_tensors
        dw = (dy * xh)
        dwsum = dw.sum(0)
        c = dw.matmul(w.unsqueeze(1)).div_(xh.shape[-1])        # mean over H of dy*xh*w
        dx = (dy * w).addcmul_(xh, c, value=-1).mul_(rstd)
        return dx, dwsum, None


class MLACoreFn(Fn):
    """rope + causal softmax attention. q [B,S,h,dn+dr], kv [B,S,h,dn+dv], kpe [B,S,dr] -> [B,S,h*dv]."""
    @staticmethod
    def forward(ctx, q, kv, kpe, cos, sin, dn, scale, blk):
        B, S, h, dq = q.shape
        dr, dv = dq - dn, kv.shape[-1] - dn
        hr = dr // 2
        Q = q.new_empty(B, h, S, dq); K = q.new_empty(B, h, S, dq)
        qt, kvt = q.transpose(1, 2), kv.transpose(1, 2)
        torch.mul(qt[..., :dn], scale, out=Q[..., :dn])
        a, b = qt[..., dn:dn + hr], qt[..., dn + hr:]
        cs, ss = cos * scale, sin * scale
        Q[..., dn:dn + hr] = a * cs - b * ss
        Q[..., dn + hr:] = b * cs + a * ss
        K[..., :dn] = kvt[..., :dn]
        a, b = kpe[..., :hr].unsqueeze(1), kpe[..., hr:].unsqueeze(1)
        K[..., dn:dn + hr] = a * cos - b * sin
        K[..., dn + hr:] = b * cos + a * sin
        V = kvt[..., dn:].contiguous()
        Q, K, V = Q.view(B * h, S, dq), K.view(B * h, S, dq), V.view(B * h, S, dv)
        O = q.new_empty(B * h, S, dv)
        Ps = []
        for i in range(0, S, blk):
            j = min(S, i + blk)
            s = torch.bmm(Q[:, i:j], K[:, :j].transpose(1, 2))
            m = torch.full((j - i, j - i), float('-inf'), dtype=q.dtype).triu_(1)
            s[:, :, i:j] += m
            p = torch.softmax(s, -1)
            O[:, i:j] = torch.bmm(p, V[:, :j])
            Ps.append(p)
        ctx.save_for_backward(Q, K, V, cos, sin, *Ps)
        ctx.cfg = (B, S, h, dq, dn, dv, scale, blk)
        return O.view(B, h, S, dv).transpose(1, 2).reshape(B, S, h * dv)

    @staticmethod
    def backward(ctx, do):
        Q, K, V, cos, sin, *Ps = ctx.saved_tensors
        B, S, h, dq, dn, dv, scale, blk = ctx.cfg
        hr = (dq - dn) // 2
        do = do.view(B, S, h, dv).transpose(1, 2).reshape(B * h, S, dv)
        dQ = torch.empty_like(Q)
        dK = dV = None
        for bi in reversed(range(len(Ps))):
            i = bi * blk; j = min(S, i + blk)
            p, dob = Ps[bi], do[:, i:j]
            ds = torch.bmm(dob, V[:, :j].transpose(1, 2))
            ds = torch._softmax_backward_data(ds, p, -1, p.dtype)
            dQ[:, i:j] = torch.bmm(ds, K[:, :j])
            if dK is None:
                dV = torch.bmm(p.transpose(1, 2), dob); dK = torch.bmm(ds.transpose(1, 2), Q[:, i:j])
            else:
                dV[:, :j] += torch.bmm(p.transpose(1, 2), dob); dK[:, :j] += torch.bmm(ds.transpose(1, 2), Q[:, i:j])
        dQ, dK, dV = dQ.view(B, h, S, dq), dK.view(B, h, S, dq), dV.view(B, h, S, dv)
        dq_ = Q.new_empty(B, S, h, dq); dkv = Q.new_empty(B, S, h, dn + dv); dkpe = Q.new_empty(B, S, 2 * hr)
        t = dq_.transpose(1, 2)
        torch.mul(dQ[..., :dn], scale, out=t[..., :dn])
        cs, ss = cos * scale, sin * scale
        a, b = dQ[..., dn:dn + hr], dQ[..., dn + hr:]
        t[..., dn:dn + hr] = a * cs + b * ss
        t[..., dn + hr:] = b * cs - a * ss
        u = dkv.transpose(1, 2)
        u[..., :dn] = dK[..., :dn]; u[..., dn:] = dV
        r = dK[..., dn:].sum(1)
        a, b = r[..., :hr], r[..., hr:]
        dkpe[..., :hr] = a * cos + b * sin
        dkpe[..., hr:] = b * cos - a * sin
        return dq_, dkv, dkpe, None, None, None, None, None


class SwiGLUFn(Fn):
    """x [T,H], w13 [2F,H], w2 [H,F]."""
    @staticmethod
    def forward(ctx, x, w13, w2):
        hcat = torch.mm(x, w13.t())
        g, u = hcat.chunk(2, 1)
        a = F.silu(g).mul_(u)
        ctx.save_for_backward(x, w13, w2, hcat, a)
        return torch.mm(a, w2.t())

    @staticmethod
    def backward(ctx, dy):
        x, w13, w2, hcat, a = ctx.saved_tensors
        g, u = hcat.chunk(2, 1)
        dw2 = torch.mm(dy.t(), a)
        da = torch.mm(dy, w2)
        dh = torch.empty_like(hcat)
        f = g.shape[1]
        torch.mul(da, F.silu(g), out=dh[:, f:])
        dh[:, :f] = torch.ops.aten.silu_backward(da.mul_(u), g)
        return torch.mm(dh, w13), torch.mm(dh.t(), x), dw2


def combine(ys, inv, K):
    """sum over k of ys[inv[t,k]]"""
    if ys.dtype == torch.float32:
        return F.embedding_bag(inv.view(-1, K), ys, mode='sum')
    iv = inv.view(-1, K).t().contiguous()
    out = ys.index_select(0, iv[0])
    for k in range(1, K): out += ys.index_select(0, iv[k])
    return out


class ExpertsLoopFn(Fn):
    """Dropless grouped SwiGLU. x [T,H]; w [N] combine weight of each sorted row; tok [N] source token of
    each sorted row; inv [T*K] sorted row of slot (t,k); offs: row offsets of the experts."""
    @staticmethod
    def forward(ctx, x, w, tok, inv, offs, K, w13, w2):
        N, H, F2 = tok.numel(), x.shape[1], w13.shape[1]
        f = F2 // 2
        xs = x.index_select(0, tok)
        hcat = x.new_empty(N, F2)
        for e in range(w13.shape[0]):
            s, t = offs[e], offs[e + 1]
            if t > s: torch.mm(xs[s:t], w13[e].t(), out=hcat[s:t])
        a = F.silu(hcat[:, :f]).mul_(hcat[:, f:])
        aw = a * w.unsqueeze(1)
        ys = torch.empty_like(xs)
        for e in range(w13.shape[0]):
            s, t = offs[e], offs[e + 1]
            if t > s: torch.mm(aw[s:t], w2[e].t(), out=ys[s:t])
        ctx.save_for_backward(xs, hcat, a, aw, w, tok, inv, w13, w2)
        ctx.cfg = (offs, K, x.shape[0])
        return combine(ys, inv, K)

    @staticmethod
    def backward(ctx, dy):
        xs, hcat, a, aw, w, tok, inv, w13, w2 = ctx.saved_tensors
        offs, K, T = ctx.cfg
        f = a.shape[1]; H = xs.shape[1]
        dys = dy.index_select(0, tok)
        daw = torch.empty_like(a); dw2 = torch.empty_like(w2); dw13 = torch.empty_like(w13)
        for e in range(w13.shape[0]):
            s, t = offs[e], offs[e + 1]
            if t > s:
                torch.mm(dys[s:t], w2[e], out=daw[s:t]); torch.mm(dys[s:t].t(), aw[s:t], out=dw2[e])
            else:
                dw2[e].zero_(); dw13[e].zero_()
        dw = (daw * a).sum(1)
        daw.mul_(w.unsqueeze(1))
        dh = torch.empty_like(hcat)
        g, u = hcat[:, :f], hcat[:, f:]
        torch.mul(daw, F.silu(g), out=dh[:, f:])
        dh[:, :f] = torch.ops.aten.silu_backward(daw.mul_(u), g)
        dxs = dys                                     # reuse the buffer
        for e in range(w13.shape[0]):
            s, t = offs[e], offs[e + 1]
            if t > s:
                torch.mm(dh[s:t], w13[e], out=dxs[s:t]); torch.mm(dh[s:t].t(), xs[s:t], out=dw13[e])
        dx = combine(dxs, inv, K)
        return dx, dw, None, None, None, None, dw13, dw2


class ExpertsPadFn(Fn):
    """The same with rows padded to one capacity per expert and batched GEMMs (bmm)."""
    @staticmethod
    def forward(ctx, x, w, tok, inv, E, K, w13, w2):
        f = w13.shape[1] // 2; H = x.shape[1]
        xs = x.index_select(0, tok).view(E, -1, H)
        hcat = torch.bmm(xs, w13.transpose(1, 2))
        a = F.silu(hcat[..., :f]).mul_(hcat[..., f:])
        aw = a * w.view(E, -1, 1)
        ys = torch.bmm(aw, w2.transpose(1, 2))
        ctx.save_for_backward(xs, hcat, a, aw, w, tok, inv, w13, w2)
        ctx.K = K
        return combine(ys.view(-1, H), inv, K)

    @staticmethod
    def backward(ctx, dy):
        xs, hcat, a, aw, w, tok, inv, w13, w2 = ctx.saved_tensors
        f = a.shape[-1]; H = xs.shape[-1]; E = xs.shape[0]
        dys = dy.index_select(0, tok).view(E, -1, H)
        daw = torch.bmm(dys, w2)
        dw2 = torch.bmm(dys.transpose(1, 2), aw)
        dw = (daw * a).sum(-1).view(-1)
        daw.mul_(w.view(E, -1, 1))
        dh = torch.empty_like(hcat)
        g, u = hcat[..., :f], hcat[..., f:]
        torch.mul(daw, F.silu(g), out=dh[..., f:])
        dh[..., :f] = torch.ops.aten.silu_backward(daw.mul_(u), g)
        dxs = torch.bmm(dh, w13)
        dw13 = torch.bmm(dh.transpose(1, 2), xs)
        return combine(dxs.view(-1, H), inv, ctx.K), dw, None, None, None, None, dw13, dw2


class LinearCEFn(Fn):
    """mean cross entropy of x @ w.T against target; gradients are formed chunk by chunk in forward."""
    @staticmethod
    def forward(ctx, x, w, target, chunk):
        T = x.shape[0]
        dx = torch.empty_like(x); dw = torch.zeros_like(w)
        loss = 0.0
        inv = 1.0 / T
        for i in range(0, T, chunk):
            xc, tc = x[i:i + chunk], target[i:i + chunk].unsqueeze(1)
            p = torch.softmax(torch.mm(xc, w.t()), -1, dtype=torch.float32 if x.dtype == torch.bfloat16 else None)
            pt = p.gather(1, tc)
            loss -= pt.log().sum()
            p.scatter_(1, tc, pt - 1.0)
            if p.dtype != x.dtype: p = p.to(x.dtype)
            torch.mm(p, w, out=dx[i:i + chunk])
            dw.addmm_(p.t(), xc)
        ctx.save_for_backward(dx.mul_(inv), dw.mul_(inv))
        return loss * inv

    @staticmethod
    def backward(ctx, g):
        dx, dw = ctx.saved_tensors            # the loss is differentiated with coefficient 1
        return dx, dw, None, None


# ------------------------------------------------------------------ model
AMP = False
def lo(t):
    """mixed-precision mode: fp32 parameters and residual stream, bf16 GEMMs"""
    return t.bfloat16() if AMP else t


class RMSNorm(nn.Module):
    def __init__(self, n, eps=1e-6):
        super().__init__(); self.weight = nn.Parameter(torch.ones(n)); self.eps = eps
    def forward(self, x): return RMSNormFn.apply(x, lo(self.weight) if x.dtype == torch.bfloat16 else self.weight, self.eps)


def W(*shape):
    return nn.Parameter(torch.randn(*shape) * 0.02)


class MLA(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c; dq = c.nope + c.rope
        if c.q_lora:
            self.q_a, self.q_norm, self.q_b = W(c.q_lora, c.hidden), RMSNorm(c.q_lora), W(c.heads * dq, c.q_lora)
        else:
            self.q = W(c.heads * dq, c.hidden)
        self.kv_a, self.kv_norm = W(c.kv_lora + c.rope, c.hidden), RMSNorm(c.kv_lora)
        self.kv_b = W(c.heads * (c.nope + c.v), c.kv_lora)
        self.o = W(c.hidden, c.heads * c.v)

    def forward(self, x, cos, sin, B, S):
        c = self.c
        x = lo(x)
        q = F.linear(self.q_norm(F.linear(x, lo(self.q_a))), lo(self.q_b)) if c.q_lora else F.linear(x, lo(self.q))
        ckv, kpe = F.linear(x, lo(self.kv_a)).split([c.kv_lora, c.rope], 1)
        kv = F.linear(self.kv_norm(ckv.contiguous()), lo(self.kv_b))
        o = MLACoreFn.apply(q.view(B, S, c.heads, -1), kv.view(B, S, c.heads, -1), kpe.reshape(B, S, -1), cos, sin,
                            c.nope, (c.nope + c.rope) ** -0.5, min(c.attn_block, S))
        return F.linear(o.view(B * S, -1), lo(self.o))


class FFN(nn.Module):
    def __init__(self, h, f):
        super().__init__(); self.w13, self.w2 = W(2 * f, h), W(h, f)
    def forward(self, x): return SwiGLUFn.apply(lo(x), lo(self.w13), lo(self.w2))


class MoE(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.gate = W(c.experts, c.hidden); self.gate.keep_fp32 = True
        self.w13, self.w2 = W(c.experts, 2 * c.expert_ffn, c.hidden), W(c.experts, c.hidden, c.expert_ffn)
        self.shared = FFN(c.hidden, c.shared * c.expert_ffn if not c.shared_ffn else c.shared_ffn) if (c.shared or c.shared_ffn) else None
        self.aux = None; self.last_counts = None

    def forward(self, x, B, S):
        c = self.c; T, E, K = x.shape[0], c.experts, c.topk
        scores = torch.softmax(F.linear(x.to(self.gate.dtype), self.gate), -1)
        wk, idx = torch.topk(scores, K, -1, sorted=False)
        if c.norm_topk: wk = wk / (wk.sum(-1, keepdim=True) + 1e-20)
        flat = idx.view(-1)
        if c.seq_aux:
            cnt = torch.zeros(B, E, dtype=scores.dtype).scatter_add_(1, idx.view(B, -1), torch.ones(B, S * K, dtype=scores.dtype))
            self.aux = (cnt * (E / (S * K)) * scores.view(B, S, E).mean(1)).sum(1).mean() * c.aux_alpha
            counts = cnt.sum(0).long()
        else:
            counts = torch.bincount(flat, minlength=E)
            self.aux = (counts.to(scores.dtype) * (E / (T * K)) * scores.mean(0)).sum() * c.aux_alpha
        # sort slots by expert
        order = torch.sort(flat, stable=True)[1]
        cl = counts.tolist(); self.last_counts = cl
        x = lo(x)
        w = wk.reshape(-1).index_select(0, order).to(x.dtype)
        if c.moe == 'bmm' or c.pad:
            if c.moe == 'bmm':
                cap = max(cl); cap = -(-cap // max(c.pad, 16)) * max(c.pad, 16); cap_l = [cap] * E
            else:
                cap_l = [-(-n // c.pad) * c.pad for n in cl]
            co = torch.zeros(E + 1, dtype=torch.long); torch.cumsum(torch.tensor(cap_l), 0, out=co[1:])
            ro = torch.zeros(E + 1, dtype=torch.long); torch.cumsum(counts, 0, out=ro[1:])
            shift = (co - ro)[:E].repeat_interleave(counts)
            pos = torch.arange(T * K) + shift                       # padded row of each sorted slot
            offs = co.tolist(); N = offs[-1]
            tok = torch.zeros(N, dtype=torch.long).index_copy_(0, pos, order // K)
            w = w.new_zeros(N).index_copy(0, pos, w)
            inv = torch.empty_like(order).index_copy_(0, order, pos)
        else:
            tok = order // K
            inv = torch.empty_like(order).index_copy_(0, order, torch.arange(T * K))
            offs = [0]
            for n in cl: offs.append(offs[-1] + n)
        if c.moe == 'bmm':
            y = ExpertsPadFn.apply(x, w, tok, inv, E, K, lo(self.w13), lo(self.w2))
        else:
            y = ExpertsLoopFn.apply(x, w, tok, inv, offs, K, lo(self.w13), lo(self.w2))
        return y + self.shared(x) if self.shared is not None else y


class Layer(nn.Module):
    def __init__(self, c, i):
        super().__init__()
        self.n1, self.n2, self.attn = RMSNorm(c.hidden, c.eps), RMSNorm(c.hidden, c.eps), MLA(c)
        self.moe = c.experts > 0 and i >= c.first_dense
        self.mlp = MoE(c) if self.moe else FFN(c.hidden, c.dense_ffn)

    def forward(self, x, cos, sin, B, S):
        x = x + self.attn(self.n1(x), cos, sin, B, S)
        return x + (self.mlp(self.n2(x), B, S) if self.moe else self.mlp(self.n2(x)))


class LM(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c.vocab, c.hidden); self.embed.weight.data.normal_(0, c.embed_std)
        self.layers = nn.ModuleList([Layer(c, i) for i in range(c.layers)])
        self.norm, self.head = RMSNorm(c.hidden, c.eps), W(c.vocab, c.hidden)
        f = torch.outer(torch.arange(c.seq, dtype=torch.float64), 1.0 / (c.theta ** (torch.arange(0, c.rope, 2, dtype=torch.float64) / c.rope)))
        self.cs = (f.cos(), f.sin())

    def hidden(self, ids):
        B, S = ids.shape
        dt = torch.bfloat16 if AMP else self.embed.weight.dtype
        cos, sin = (t[:S].to(dt) for t in self.cs)
        x = F.embedding(ids.reshape(-1), self.embed.weight)
        for l in self.layers: x = l(x, cos, sin, B, S)
        return self.norm(x)

    def forward(self, ids, target):
        loss = LinearCEFn.apply(lo(self.hidden(ids)), lo(self.head), target.reshape(-1), self.c.ce_chunk)
        aux = sum((l.mlp.aux for l in self.layers if l.moe), torch.zeros((), dtype=loss.dtype))
        return loss, aux


# ------------------------------------------------------------------ optimizer
class ChunkedAdamW:
    """AdamW with fp32 state, walking every tensor in cache-sized chunks so that the seven passes hit cache.
    For bf16 parameters an fp32 master copy is kept."""
    def __init__(self, params, lr, betas=(0.9, 0.95), eps=1e-8, wd=0.1, chunk=131072):
        self.lr, self.b, self.eps, self.wd, self.t = lr, betas, eps, wd, 0
        self.items = []
        for p in params:
            d = p.data.view(-1)
            low = d.dtype == torch.bfloat16
            master = d.float() if low else d
            m, v = torch.zeros_like(master), torch.zeros_like(master)
            self.items.append((p, list(zip(master.split(chunk), m.split(chunk), v.split(chunk), d.split(chunk))), low))
        self.chunk = chunk
        self.s1, self.s2 = torch.empty(chunk), torch.empty(chunk)

    @torch.no_grad()
    def step(self, gscale):
        self.t += 1
        b1, b2 = self.b
        bc1, bc2 = 1 - b1 ** self.t, 1 - b2 ** self.t
        decay, step, eps = 1 - self.lr * self.wd, -self.lr / bc1 * math.sqrt(bc2), self.eps * math.sqrt(bc2)
        # clipping is folded in: g*gscale enters m linearly and v quadratically
        for p, chunks, low in self.items:
            gs = p.grad.reshape(-1).split(self.chunk)
            for (w, m, v, d), g in zip(chunks, gs):
                n = w.numel()
                if low:
                    s = self.s2[:n]; s.copy_(g); g = s
                m.mul_(b1).add_(g, alpha=(1 - b1) * gscale)
                v.mul_(b2).addcmul_(g, g, value=(1 - b2) * gscale * gscale)
                den = torch.sqrt(v, out=self.s1[:n]).add_(eps)
                w.mul_(decay).addcdiv_(m, den, value=step)
                if low: d.copy_(w)
            p.grad = None


class TorchAdamW:
    """torch.optim.AdamW(foreach=...) for comparison; fp32 masters for bf16 parameters."""
    def __init__(self, params, lr, foreach=True):
        self.params = list(params)
        self.master = [p.data.float().requires_grad_() if p.dtype == torch.bfloat16 else p for p in self.params]
        self.opt = torch.optim.AdamW(self.master, lr=lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=foreach)
    @torch.no_grad()
    def step(self, gscale):
        if gscale != 1.0: torch._foreach_mul_([p.grad for p in self.params], gscale)
        for p, m in zip(self.params, self.master):
            if m is not p: m.grad = p.grad.float()
        self.opt.step()
        for p, m in zip(self.params, self.master):
            if m is not p: p.data.copy_(m)
            p.grad = None


@torch.no_grad()
def grad_norm(params):
    return math.sqrt(sum(float(torch.linalg.vector_norm(p.grad)) ** 2 for p in params))


# ------------------------------------------------------------------ configuration
PRESETS = dict(
    tiny=dict(hidden=256, heads=4, layers=6, experts=16, topk=4, expert_ffn=128, shared=1, vocab=8192, kv_lora=64, nope=32, rope=16, v=32),
    small=dict(hidden=512, heads=8, layers=8, experts=64, topk=6, expert_ffn=192, shared=2, vocab=16384, kv_lora=128, nope=64, rope=32, v=64),
)
for _m, _e, _f, _k in ((1, 16, 768, 2), (2, 32, 384, 4), (4, 64, 192, 8), (8, 128, 96, 16)):
    PRESETS[f'gran{_m}'] = dict(PRESETS['small'], experts=_e, expert_ffn=_f, topk=_k, shared=_m)
PRESETS['tiny_dense'] = dict(PRESETS['tiny'], experts=0, topk=0, dense_ffn=5 * 128)
PRESETS['small_dense'] = dict(PRESETS['small'], experts=0, topk=0, dense_ffn=8 * 192)
PRESETS['gran_dense'] = dict(PRESETS['small'], experts=0, topk=0, dense_ffn=3 * 768)


def parser():
    ap = argparse.ArgumentParser()
    ap.add_argument('--preset', default='tiny')
    ap.add_argument('--dtype', default='fp32', choices=['fp32', 'bf16', 'amp'])
    ap.add_argument('--opt', default='chunk', choices=['chunk', 'foreach', 'adamw', 'none'])
    ap.add_argument('--moe', default='loop', choices=['loop', 'bmm'])
    ap.add_argument('--pad', type=int, default=-1, help='round rows per expert up to this (fewer GEMM shapes); -1: 32 in bf16, 0 in fp32')
    ap.add_argument('--steps', type=int, default=8); ap.add_argument('--warmup', type=int, default=2)
    ap.add_argument('--max-seconds', type=float, default=120)
    ap.add_argument('--batch', type=int, default=16); ap.add_argument('--seq', type=int, default=256)
    for n in ('hidden', 'heads', 'layers', 'experts', 'topk', 'expert-ffn', 'shared', 'shared-ffn', 'vocab', 'kv-lora', 'q-lora', 'nope', 'rope', 'v', 'dense-ffn', 'first-dense'):
        ap.add_argument('--' + n, type=int)
    ap.add_argument('--attn-block', type=int, default=128); ap.add_argument('--ce-chunk', type=int, default=512)
    ap.add_argument('--opt-chunk', type=int, default=131072)
    ap.add_argument('--aux-alpha', type=float, default=0.001); ap.add_argument('--seq-aux', type=int, default=0); ap.add_argument('--norm-topk', type=int, default=0)
    ap.add_argument('--clip', type=float, default=1.0); ap.add_argument('--lr', type=float, default=3e-4)
    ap.add_argument('--theta', type=float, default=10000.0); ap.add_argument('--eps', type=float, default=1e-6)
    ap.add_argument('--threads', type=int, default=2); ap.add_argument('--seed', type=int, default=1)
    ap.add_argument('--gemm', type=int, default=1, help='also measure torch.mm at 2048^3 in this process')
    ap.add_argument('--embed-std', type=float, default=1.0, help='1.0 keeps the routing of the untrained model near balance')
    ap.add_argument('--data', default='uniform', choices=['uniform', 'zipf'])
    ap.add_argument('--profile', action='store_true'); ap.add_argument('--verbose', action='store_true')
    return ap


def finish(c):
    for k, v in PRESETS[c.preset].items():
        if getattr(c, k, None) is None: setattr(c, k, v)
    for k in ('q_lora', 'shared_ffn', 'first_dense', 'dense_ffn', 'experts', 'topk', 'shared', 'expert_ffn'):
        if getattr(c, k, None) is None: setattr(c, k, 0)
    if c.pad < 0: c.pad = 32 if c.dtype != 'fp32' else 0
    return c


def flops_per_token(c, model):
    total = sum(p.numel() for p in model.parameters())
    embed = model.embed.weight.numel(); head = model.head.numel()
    routed = sum(l.mlp.w13.numel() + l.mlp.w2.numel() for l in model.layers if l.moe)
    active = total - embed - head - routed + (routed * c.topk // c.experts if c.experts else 0)
    att = 3 * c.layers * c.seq * c.heads * (c.nope + c.rope + c.v)      # causal half of 2*2*S*..., times 3 for fwd+bwd
    return total, active, 6 * active + att + 6 * head


def gemm_gflops(dt):
    a, b, o = torch.randn(2048, 2048).to(dt), torch.randn(2048, 2048).to(dt).t(), torch.empty(2048, 2048, dtype=dt)
    ts = []
    for _ in range(12):
        t = time.perf_counter(); torch.mm(a, b, out=o); ts.append(time.perf_counter() - t)
    return 2 * 2048 ** 3 / sorted(ts)[len(ts) // 4] / 1e9


def main():
    c = finish(parser().parse_args())
    torch.set_num_threads(c.threads); torch.manual_seed(c.seed)
    gf = {}
    if c.gemm: gf = dict(fp32=gemm_gflops(torch.float32), bf16=gemm_gflops(torch.bfloat16))
    global AMP
    AMP = c.dtype == 'amp'
    model = LM(c)
    if c.dtype == 'bf16':
        for p in model.parameters():
            if not getattr(p, 'keep_fp32', False): p.data = p.data.bfloat16()
    params = list(model.parameters())
    total, active, fpt = flops_per_token(c, model)
    opt = (ChunkedAdamW(params, c.lr, chunk=c.opt_chunk) if c.opt == 'chunk' else
           TorchAdamW(params, c.lr, c.opt == 'foreach') if c.opt != 'none' else None)
    g = torch.Generator().manual_seed(c.seed)
    # zipf: Zipf-like tokens from a fixed bigram map with noise, so that the loss can fall (routing is then skewed)
    prob = 1.0 / (torch.arange(c.vocab).float() + 10)
    perm = torch.randperm(c.vocab, generator=g)
    def batch():
        if c.data == 'uniform':
            t = torch.randint(0, c.vocab, (c.batch, c.seq + 1), generator=g)
            return t[:, :-1].contiguous(), t[:, 1:].contiguous()
        t = torch.multinomial(prob, c.batch * (c.seq + 1), True, generator=g).view(c.batch, c.seq + 1)
        keep = torch.rand(c.batch, c.seq, generator=g) < 0.5
        for s in range(c.seq): t[:, s + 1] = torch.where(keep[:, s], perm[t[:, s]], t[:, s + 1])
        return t[:, :-1].contiguous(), t[:, 1:].contiguous()
    data = [batch() for _ in range(4)]
    rec = []
    start = time.perf_counter()
    def one(i):
        ids, tgt = data[i % len(data)]
        t0 = time.perf_counter()
        loss, aux = model(ids, tgt)
        t1 = time.perf_counter()
        (loss + aux).backward()
        t2 = time.perf_counter()
        n = grad_norm(params) if c.clip else 0.0
        if opt: opt.step(min(1.0, c.clip / (n + 1e-6)) if c.clip else 1.0)
        else:
            for p in params: p.grad = None
        t3 = time.perf_counter()
        return t1 - t0, t2 - t1, t3 - t2, float(loss), float(aux), n
    for i in range(c.warmup + c.steps):
        r = one(i)
        if i >= c.warmup: rec.append(r)
        if c.verbose: print(i, ' '.join(f'{x:.4f}' for x in r), flush=True)
        if time.perf_counter() - start > c.max_seconds and len(rec) >= 3: break
    if c.profile:
        from torch.profiler import profile, ProfilerActivity
        with profile(activities=[ProfilerActivity.CPU]) as prof: one(0)
        print(prof.key_averages().table(sort_by='self_cpu_time_total', row_limit=28, max_name_column_width=40))
    med = lambda x: sorted(x)[len(x) // 2]
    tt = med([sum(r[:3]) for r in rec]); T = c.batch * c.seq
    mx = max((max(l.mlp.last_counts) for l in model.layers if l.moe), default=0)
    out = dict(preset=c.preset, dtype=c.dtype, opt=c.opt, moe=c.moe, pad=c.pad, tokens_per_s=round(T / tt, 1), step_s=round(tt, 4), fwd_s=round(med([r[0] for r in rec]), 4),
               bwd_s=round(med([r[1] for r in rec]), 4), opt_s=round(med([r[2] for r in rec]), 4), best_tokens_per_s=round(T / min(sum(r[:3]) for r in rec), 1), steps=len(rec), loss_first=round(rec[0][3], 4), loss_last=round(rec[-1][3], 4),
               params_M=round(total / 1e6, 2), active_nonemb_M=round(active / 1e6, 2), mflop_per_token=round(fpt / 1e6, 1), achieved_gflops=round(fpt * T / tt / 1e9, 1),
               gemm_gflops={k: round(v) for k, v in gf.items()}, max_tokens_per_expert=mx, peak_rss_MiB=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    if gf:
        k = 'fp32' if c.dtype == 'fp32' else 'bf16'
        out['gemm_after'] = round(gemm_gflops(torch.float32 if k == 'fp32' else torch.bfloat16))   # a low figure here or above: the machine was disturbed
        out['mfu'] = round(out['achieved_gflops'] / max(gf[k], out['gemm_after']), 3)
    print(json.dumps(out))


if __name__ == '__main__':
    main()
