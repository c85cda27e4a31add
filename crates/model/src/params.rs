//! The parameters of a model as a table: id, name, shape, group.

use crate::ModelConfig;

/// Position of a parameter in [`Params`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(u32);

impl ParamId {
    /// As an index into a list with one entry per parameter.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Which of a parameter's tensors: training keeps four numbers per weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The parameter itself.
    Weight,
    /// The derivative of the loss by it.
    Gradient,
    /// First state of its optimizer rule: the mean gradient of AdamW, the momentum of Muon.
    Moment1,
    /// Second state: the mean squared gradient of AdamW; unused by Muon.
    Moment2,
}

/// Which optimizer rule a parameter gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// Token embedding, and the head when it is tied to it.
    Embedding,
    /// Output head of its own.
    Head,
    /// Weight matrix inside a block.
    Matrix,
    /// Gain of a norm.
    Gain,
    /// Bias vector.
    Bias,
}

/// What a parameter does in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Token embedding, `[vocab, dim]`.
    Embed,
    /// Gain of the norm before attention, `[dim]`.
    AttnNorm,
    /// Query projection, `[q_dim, dim]`.
    Q,
    /// Key projection, `[kv_dim, dim]`.
    K,
    /// Value projection, `[kv_dim, dim]`.
    V,
    /// Query bias, `[q_dim]`.
    QBias,
    /// Key bias, `[kv_dim]`.
    KBias,
    /// Value bias, `[kv_dim]`.
    VBias,
    /// Gain of the norm over each query head, `[head_dim]`.
    QNorm,
    /// Gain of the norm over each key head, `[head_dim]`.
    KNorm,
    /// Output projection of attention, `[dim, q_dim]`.
    O,
    /// Gain of the norm before the feed-forward, `[dim]`.
    FfnNorm,
    /// W1, the gate, `[hidden, dim]`.
    Gate,
    /// W3, the value that is gated, `[hidden, dim]`.
    Up,
    /// W2, back to the residual stream, `[dim, hidden]`.
    Down,
    /// Gain of the last norm, `[dim]`.
    FinalNorm,
    /// Output head, `[vocab, dim]`; absent when tied.
    Head,
}

impl Role {
    /// The name of an output head, which the file of a tied model may hold as well.
    pub(crate) const HEAD_NAME: &str = "lm_head.weight";
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Its place in the table.
    pub id: ParamId,
    /// Its name in Hugging Face files.
    pub name: String,
    /// Extents; a matrix is `[outputs, inputs]`, row-major.
    pub shape: Vec<usize>,
    /// Which optimizer rule it gets.
    pub group: Group,
    /// What it does.
    pub role: Role,
    /// The block it belongs to.
    pub layer: Option<usize>,
}

impl Param {
    /// Numbers it holds.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Never: every extent is at least 1.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All parameters of a model, in the order in which the forward pass meets them.
///
/// Query, key and value matrices are neighbours, and so are gate and up: a backend that keeps
/// them in one buffer can multiply by them in one product.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    rows: Vec<Param>,
    per_layer: Vec<Role>,
}

impl Params {
    /// The table for a model; `config` must be valid.
    pub fn new(config: &ModelConfig) -> Self {
        let mut per_layer = vec![Role::AttnNorm, Role::Q, Role::K, Role::V];
        if config.qkv_bias {
            per_layer.extend([Role::QBias, Role::KBias, Role::VBias]);
        }
        if config.qk_norm {
            per_layer.extend([Role::QNorm, Role::KNorm]);
        }
        per_layer.extend([Role::O, Role::FfnNorm, Role::Gate, Role::Up, Role::Down]);

        let mut table = Self { rows: Vec::new(), per_layer: per_layer.clone() };
        table.push(config, Role::Embed, None);
        for layer in 0..config.layers {
            for &role in &per_layer {
                table.push(config, role, Some(layer));
            }
        }
        table.push(config, Role::FinalNorm, None);
        if !config.tied {
            table.push(config, Role::Head, None);
        }
        table
    }

    fn push(&mut self, config: &ModelConfig, role: Role, layer: Option<usize>) {
        let id = ParamId(self.rows.len() as u32);
        let name = name(role, layer);
        self.rows.push(Param { id, name, shape: shape(config, role), group: group(role), role, layer });
    }

    /// The parameter that does `role` in block `layer`, or outside the blocks for `None`.
    pub fn find(&self, role: Role, layer: Option<usize>) -> Option<ParamId> {
        let index = match layer {
            None if role == Role::Embed => 0,
            None => self.rows.iter().rposition(|p| p.role == role && p.layer.is_none())?,
            Some(layer) => {
                let place = self.per_layer.iter().position(|&r| r == role)?;
                1 + layer * self.per_layer.len() + place
            }
        };
        let row = self.rows.get(index)?;
        (row.role == role && row.layer == layer).then_some(row.id)
    }

    /// The matrix that turns the last activation into logits.
    pub fn head(&self) -> ParamId {
        self.find(Role::Head, None).unwrap_or(ParamId(0))
    }

    /// The row of a parameter.
    pub fn get(&self, id: ParamId) -> &Param {
        &self.rows[id.index()]
    }

    /// The parameter of that Hugging Face name.
    pub fn by_name(&self, name: &str) -> Option<&Param> {
        self.rows.iter().find(|p| p.name == name)
    }

    /// All rows, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Param> {
        self.rows.iter()
    }

    /// Parameters in the table.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Never: every model has an embedding.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl<'a> IntoIterator for &'a Params {
    type Item = &'a Param;
    type IntoIter = std::slice::Iter<'a, Param>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

fn group(role: Role) -> Group {
    match role {
        Role::Embed => Group::Embedding,
        Role::Head => Group::Head,
        Role::Q | Role::K | Role::V | Role::O | Role::Gate | Role::Up | Role::Down => Group::Matrix,
        Role::QBias | Role::KBias | Role::VBias => Group::Bias,
        Role::AttnNorm | Role::QNorm | Role::KNorm | Role::FfnNorm | Role::FinalNorm => Group::Gain,
    }
}

fn shape(c: &ModelConfig, role: Role) -> Vec<usize> {
    match role {
        Role::Embed | Role::Head => vec![c.vocab, c.dim],
        Role::AttnNorm | Role::FfnNorm | Role::FinalNorm => vec![c.dim],
        Role::Q => vec![c.q_dim(), c.dim],
        Role::K | Role::V => vec![c.kv_dim(), c.dim],
        Role::QBias => vec![c.q_dim()],
        Role::KBias | Role::VBias => vec![c.kv_dim()],
        Role::QNorm | Role::KNorm => vec![c.head_dim],
        Role::O => vec![c.dim, c.q_dim()],
        Role::Gate | Role::Up => vec![c.hidden, c.dim],
        Role::Down => vec![c.dim, c.hidden],
    }
}

fn name(role: Role, layer: Option<usize>) -> String {
    let suffix = match role {
        Role::Embed => "model.embed_tokens.weight",
        Role::FinalNorm => "model.norm.weight",
        Role::Head => Role::HEAD_NAME,
        Role::AttnNorm => "input_layernorm.weight",
        Role::Q => "self_attn.q_proj.weight",
        Role::K => "self_attn.k_proj.weight",
        Role::V => "self_attn.v_proj.weight",
        Role::QBias => "self_attn.q_proj.bias",
        Role::KBias => "self_attn.k_proj.bias",
        Role::VBias => "self_attn.v_proj.bias",
        Role::QNorm => "self_attn.q_norm.weight",
        Role::KNorm => "self_attn.k_norm.weight",
        Role::O => "self_attn.o_proj.weight",
        Role::FfnNorm => "post_attention_layernorm.weight",
        Role::Gate => "mlp.gate_proj.weight",
        Role::Up => "mlp.up_proj.weight",
        Role::Down => "mlp.down_proj.weight",
    };
    match layer {
        Some(layer) => format!("model.layers.{layer}.{suffix}"),
        None => suffix.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rope;

    fn config(tied: bool, qk_norm: bool, qkv_bias: bool) -> ModelConfig {
        ModelConfig {
            dim: 12,
            hidden: 20,
            layers: 3,
            heads: 4,
            kv_heads: 2,
            head_dim: 6,
            vocab: 11,
            max_seq: 16,
            norm_eps: 1e-5,
            rope: Rope { theta: 1e4, scaling: None },
            tied,
            qk_norm,
            qkv_bias,
            residual_scale: 1.0,
        }
    }

    #[test]
    fn finds_every_row_by_role_and_by_name() {
        for (tied, qk_norm, qkv_bias) in [(true, false, false), (false, true, false), (true, false, true)] {
            let config = config(tied, qk_norm, qkv_bias);
            let params = Params::new(&config);
            for p in &params {
                assert_eq!(params.find(p.role, p.layer), Some(p.id), "{}", p.name);
                assert_eq!(params.by_name(&p.name), Some(p));
            }
            let count: usize = params.iter().map(Param::len).sum();
            assert_eq!(count as u64, config.param_count());
            assert_eq!(params.find(Role::Head, None).is_some(), !tied);
            assert_eq!(params.find(Role::Q, Some(3)), None);
            assert_eq!(params.find(Role::QBias, Some(0)).is_some(), qkv_bias);
        }
    }

    #[test]
    fn the_head_of_a_tied_model_is_its_embedding() {
        let params = Params::new(&config(true, false, false));
        assert_eq!(params.get(params.head()).role, Role::Embed);
    }
}
