//! Gives every expression its type, and every call its functions.

use cel::common::ast::operators::{
    ADD, CONDITIONAL, EQUALS, INDEX, LOGICAL_AND, LOGICAL_OR, NOT_EQUALS, NOT_STRICTLY_FALSE,
    OPT_INDEX, OPT_SELECT,
};
use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr,
};

use crate::macros::{self, INSERT};
use crate::node::{Access, Entry, Fold, Node, Step};
use crate::overload::{self, Overload};
use crate::types::Type;
use crate::value::{Text, Value};

/// Expressions may nest so deep: running them takes stack.
const MAX_DEPTH: usize = 120;
/// Names of types, which are values too.
const TYPES: &[(&str, &str)] = &[
    ("bool", "bool"),
    ("int", "int"),
    ("uint", "uint"),
    ("double", "double"),
    ("string", "string"),
    ("bytes", "bytes"),
    ("list", "list"),
    ("map", "map"),
    ("type", "type"),
    ("null_type", "null_type"),
    ("optional_type", "optional_type"),
    ("google.protobuf.Timestamp", "google.protobuf.Timestamp"),
    ("google.protobuf.Duration", "google.protobuf.Duration"),
    ("net.IP", "net.IP"),
    ("net.CIDR", "net.CIDR"),
    ("kubernetes.URL", "kubernetes.URL"),
    ("kubernetes.Quantity", "kubernetes.Quantity"),
];

/// What is wrong with the expression `id`.
#[derive(Debug)]
pub(crate) struct CheckError {
    pub(crate) id: u64,
    pub(crate) message: String,
}

type Checked = Result<(Node, Type), CheckError>;

fn fail<T>(id: u64, message: impl Into<String>) -> Result<T, CheckError> {
    Err(CheckError { id, message: message.into() })
}

/// Checks one program.
pub(crate) struct Checker {
    /// The variables in scope: name, where it is kept, type. The innermost is the last.
    scope: Vec<(String, usize, Type)>,
    slots: usize,
    uses_old_self: bool,
    depth: usize,
    /// Whether the list that is checked next may mix types: what `format` is given.
    mixes: bool,
}

impl Checker {
    pub(crate) fn new(this: Type, old: Type) -> Self {
        let scope = vec![("self".into(), 0, this), ("oldSelf".into(), 1, old)];
        Self { scope, slots: 2, uses_old_self: false, depth: 0, mixes: false }
    }

    /// How many variables the program has.
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    pub(crate) fn uses_old_self(&self) -> bool {
        self.uses_old_self
    }

    pub(crate) fn check(&mut self, expr: &IdedExpr) -> Checked {
        if self.depth == MAX_DEPTH {
            return fail(expr.id, format!("the expression nests deeper than {MAX_DEPTH}"));
        }
        self.depth += 1;
        let mixes = std::mem::take(&mut self.mixes);
        let checked = self.expression(expr, mixes);
        self.depth -= 1;
        checked
    }

    fn expression(&mut self, expr: &IdedExpr, mixes: bool) -> Checked {
        match &expr.expr {
            Expr::Literal(literal) => Ok(constant(literal)),
            Expr::Ident(name) => self.identifier(expr.id, name),
            Expr::Select(select) => self.selection(expr, select),
            Expr::Call(call) => self.call(expr.id, call),
            Expr::Comprehension(fold) => self.fold(fold),
            Expr::List(list) => {
                let mut element: Option<Type> = None;
                let mut entries = Vec::with_capacity(list.elements.len());
                for (index, one) in list.elements.iter().enumerate() {
                    let optional = list.optional_indices.contains(&index);
                    let (value, ty) = self.entry(one, optional)?;
                    element = Some(if mixes { Type::Dyn } else { join(one.id, element, ty)? });
                    entries.push(Entry { value, optional });
                }
                Ok((Node::List(entries), Type::list(element.unwrap_or(Type::Dyn))))
            }
            Expr::Map(map) => {
                let (mut keys, mut values): (Option<Type>, Option<Type>) = (None, None);
                let mut entries = Vec::with_capacity(map.entries.len());
                for entry in &map.entries {
                    let EntryExpr::MapEntry(one) = &entry.expr else {
                        return fail(entry.id, "a field in a map");
                    };
                    let (key, key_type) = self.check(&one.key)?;
                    let (value, value_type) = self.entry(&one.value, one.optional)?;
                    keys = Some(join(one.key.id, keys, key_type)?);
                    values = Some(join(one.value.id, values, value_type)?);
                    entries.push((key, Entry { value, optional: one.optional }));
                }
                let ty = Type::map(keys.unwrap_or(Type::Dyn), values.unwrap_or(Type::Dyn));
                Ok((Node::Map(entries), ty))
            }
            Expr::Struct(made) => {
                let name = &made.type_name;
                fail(expr.id, format!("undeclared reference to '{name}' (in container '')"))
            }
            Expr::Unspecified => fail(expr.id, "an empty expression"),
        }
    }

    fn entry(&mut self, expr: &IdedExpr, optional: bool) -> Checked {
        let (node, ty) = self.check(expr)?;
        match (ty, optional) {
            (Type::Optional(of), true) => Ok((node, (*of).clone())),
            (Type::Dyn, true) => Ok((node, Type::Dyn)),
            (ty, true) => {
                fail(expr.id, format!("expected type 'optional_type(dyn)' but found '{ty}'"))
            }
            (ty, false) => Ok((node, ty)),
        }
    }

    fn identifier(&mut self, id: u64, name: &str) -> Checked {
        let found = self.scope.iter().rev().find(|(one, ..)| one == name);
        if let Some((_, slot, ty)) = found {
            self.uses_old_self |= *slot == 1;
            return Ok((Node::Variable(*slot), ty.clone()));
        }
        match type_constant(name) {
            Some(constant) => Ok(constant),
            None => fail(id, format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    fn selection(&mut self, expr: &IdedExpr, select: &SelectExpr) -> Checked {
        if let Some(name) = self.qualified(expr)
            && let Some(constant) = type_constant(&name)
        {
            return Ok(constant);
        }
        let (of, ty) = self.check(&select.operand)?;
        let access = if select.test { Access::Presence } else { Access::Value };
        self.field(expr.id, of, &ty, &select.field, access)
    }

    fn field(&self, id: u64, of: Node, ty: &Type, field: &str, access: Access) -> Checked {
        let (inside, is_optional) = match ty {
            Type::Optional(inner) => (&**inner, true),
            other => (other, false),
        };
        let found = match inside {
            Type::Dyn => Type::Dyn,
            Type::Map(of) if of.0 == Type::String || of.0 == Type::Dyn => of.1.clone(),
            Type::Object(object) => match object.fields.get(field) {
                Some(found) => found.ty.clone(),
                None => return fail(id, format!("undefined field '{field}'")),
            },
            other => return fail(id, format!("type '{other}' does not support field selection")),
        };
        let found = match access {
            Access::Presence => Type::Bool,
            Access::Optional => optional(found),
            Access::Value if is_optional => optional(found),
            Access::Value => found,
        };
        Ok((Node::Select { of: Box::new(of), field: field.into(), access }, found))
    }

    /// The dotted name that an expression spells, if its first part is no variable.
    fn qualified(&self, expr: &IdedExpr) -> Option<String> {
        match &expr.expr {
            Expr::Ident(name) => {
                let is_variable = self.scope.iter().any(|(one, ..)| one == name);
                (!is_variable).then(|| name.clone())
            }
            Expr::Select(select) if !select.test => {
                Some(format!("{}.{}", self.qualified(&select.operand)?, select.field))
            }
            _ => None,
        }
    }

    fn call(&mut self, id: u64, call: &CallExpr) -> Checked {
        let name = call.func_name.as_str();
        match (name, call.args.as_slice()) {
            (LOGICAL_AND | LOGICAL_OR, [left, right]) => {
                let (left, right) = (Box::new(self.boolean(left)?), Box::new(self.boolean(right)?));
                let node = if name == LOGICAL_AND {
                    Node::And(left, right)
                } else {
                    Node::Or(left, right)
                };
                return Ok((node, Type::Bool));
            }
            (NOT_STRICTLY_FALSE, [of]) => {
                return Ok((Node::NotStrictlyFalse(Box::new(self.boolean(of)?)), Type::Bool));
            }
            (CONDITIONAL, [condition, yes, no]) => {
                let condition = self.boolean(condition)?;
                let ((yes, a), (no, b)) = (self.check(yes)?, self.check(no)?);
                let Some(ty) = a.join(&b) else {
                    return no_overload(id, name, false, &[Type::Bool, a, b]);
                };
                return Ok((Node::Conditional(Box::new([condition, yes, no])), ty));
            }
            (EQUALS | NOT_EQUALS, [left, right]) => {
                let ((left, a), (right, b)) = (self.check(left)?, self.check(right)?);
                if a.join(&b).is_none() {
                    return no_overload(id, name, false, &[a, b]);
                }
                let sides = Box::new([left, right]);
                return Ok((Node::Equal { sides, negated: name == NOT_EQUALS }, Type::Bool));
            }
            (INDEX | OPT_INDEX, [of, index]) => return self.index(id, name, of, index),
            (OPT_SELECT, [of, field]) => {
                let Expr::Literal(LiteralValue::String(field)) = &field.expr else {
                    return fail(id, "unsupported optional field selection");
                };
                let (of, ty) = self.check(of)?;
                return self.field(id, of, &ty, field.inner(), Access::Optional);
            }
            ("optMap" | "optFlatMap", [variable, then]) => {
                if let Some(of) = &call.target {
                    return self.optional_map(id, of, variable, then, name == "optFlatMap");
                }
            }
            _ => {}
        }
        if let Some(expanded) = macros::expand(id, call) {
            return self.check(&expanded);
        }
        let Some(target) = call.target.as_deref() else {
            return self.function(id, name, false, &call.args.iter().collect::<Vec<_>>());
        };
        if let Some(qualified) = self.qualified(target).map(|prefix| format!("{prefix}.{name}"))
            && !overload::named(&qualified).is_empty()
        {
            return self.function(id, &qualified, false, &call.args.iter().collect::<Vec<_>>());
        }
        let arguments: Vec<&IdedExpr> = std::iter::once(target).chain(&call.args).collect();
        self.function(id, name, true, &arguments)
    }

    fn function(&mut self, id: u64, name: &str, member: bool, arguments: &[&IdedExpr]) -> Checked {
        let known = overload::named(name);
        if known.is_empty() {
            return fail(id, format!("undeclared reference to '{name}' (in container '')"));
        }
        let mut nodes = Vec::with_capacity(arguments.len());
        let mut types = Vec::with_capacity(arguments.len());
        for argument in arguments {
            self.mixes = name == "format" && matches!(argument.expr, Expr::List(_));
            let (node, ty) = self.check(argument)?;
            nodes.push(node);
            types.push(ty);
        }
        let mut result: Option<Type> = None;
        let mut fitting: Vec<&'static Overload> = Vec::new();
        for overload in known {
            let mut bound = [None, None, None];
            let fits = overload.member == member
                && overload.parameters.len() == types.len()
                && overload.parameters.iter().zip(&types).all(|(p, t)| p.accepts(t, &mut bound));
            if fits {
                let this = overload.result.resolved(&bound);
                let joined = match &result {
                    None => this,
                    Some(result) if *result == this => this,
                    // Which it is shows when it runs.
                    Some(_) => Type::Dyn,
                };
                result = Some(joined);
                fitting.push(overload);
            }
        }
        let Some(result) = result else { return no_overload(id, name, member, &types) };
        if let (Some(check), Some(Node::Constant(Value::String(text)))) =
            (fitting.first().and_then(|one| one.constant), nodes.last())
        {
            let at = arguments.last().map_or(id, |last| last.id);
            match check(text) {
                Ok(Some(kept)) => {
                    nodes.pop();
                    nodes.push(Node::Constant(kept));
                }
                Ok(None) => {}
                Err(why) => return fail(at, why),
            }
        }
        Ok((Node::Call { name: name.into(), overloads: fitting, arguments: nodes }, result))
    }

    fn boolean(&mut self, expr: &IdedExpr) -> Result<Node, CheckError> {
        match self.check(expr)? {
            (node, Type::Bool | Type::Dyn) => Ok(node),
            (_, ty) => fail(expr.id, format!("expected type 'bool' but found '{ty}'")),
        }
    }

    fn index(&mut self, id: u64, name: &str, of: &IdedExpr, index: &IdedExpr) -> Checked {
        let ((of, of_type), (index, index_type)) = (self.check(of)?, self.check(index)?);
        let (inside, was_optional) = match &of_type {
            Type::Optional(inner) => (&**inner, true),
            other => (other, false),
        };
        let found = match inside {
            Type::Dyn => Some(Type::Dyn),
            Type::List(list) => {
                matches!(index_type, Type::Int | Type::Dyn).then(|| list.element.clone())
            }
            Type::Map(of) => of.0.join(&index_type).map(|_| of.1.clone()),
            _ => None,
        };
        let Some(found) = found else {
            return no_overload(id, name, false, &[of_type, index_type]);
        };
        let is_optional = name == OPT_INDEX;
        let found = if is_optional || was_optional { optional(found) } else { found };
        let (of, index) = (Box::new(of), Box::new(index));
        Ok((Node::Index { of, index, optional: is_optional }, found))
    }

    fn optional_map(
        &mut self,
        id: u64,
        of: &IdedExpr,
        variable: &IdedExpr,
        then: &IdedExpr,
        flat: bool,
    ) -> Checked {
        let Expr::Ident(name) = &variable.expr else {
            return fail(variable.id, "the variable must be a simple name");
        };
        let (of, ty) = self.check(of)?;
        let inner = match ty {
            Type::Optional(inner) => (*inner).clone(),
            Type::Dyn => Type::Dyn,
            other => return no_overload(id, "optMap", true, &[other, Type::Dyn, Type::Dyn]),
        };
        let slot = self.declare(name, inner);
        let (then, result) = self.check(then)?;
        self.scope.pop();
        let result = match (flat, result) {
            (true, result @ (Type::Optional(_) | Type::Dyn)) => result,
            (true, other) => {
                return fail(id, format!("expected type 'optional_type(dyn)' but found '{other}'"));
            }
            (false, result) => Type::optional(result),
        };
        let (of, then) = (Box::new(of), Box::new(then));
        Ok((Node::OptionalMap { of, variable: slot, then, flat }, result))
    }

    /// A variable of this name until it is popped off the scope.
    fn declare(&mut self, name: &str, ty: Type) -> usize {
        let slot = self.slots;
        self.slots += 1;
        self.scope.push((name.into(), slot, ty));
        slot
    }

    fn fold(&mut self, fold: &ComprehensionExpr) -> Checked {
        let (range, range_type) = self.check(&fold.iter_range)?;
        let two = fold.iter_var2.is_some();
        let (first, second) = match &range_type {
            Type::List(list) if two => (Type::Int, list.element.clone()),
            Type::List(list) => (list.element.clone(), Type::Dyn),
            Type::Map(of) => of.as_ref().clone(),
            Type::Dyn => (Type::Dyn, Type::Dyn),
            other => {
                let why = "of a comprehension (must be list, map, or dynamic)";
                let message = format!("expression of type '{other}' cannot be range {why}");
                return fail(fold.iter_range.id, message);
            }
        };
        let (initial, initial_type) = self.check(&fold.accu_init)?;
        let accumulator = self.declare(&fold.accu_var, initial_type.clone());
        let (condition, _) = self.check(&fold.loop_cond)?;
        let first = self.declare(&fold.iter_var, first);
        let second = fold.iter_var2.as_deref().map(|name| self.declare(name, second));
        let (step, step_type) = self.step(fold)?;
        self.scope.truncate(self.scope.len() - if second.is_some() { 2 } else { 1 });
        if let Some(last) = self.scope.last_mut() {
            last.2 = step_type.unwrap_or(initial_type);
        }
        let (result, result_type) = self.check(&fold.result)?;
        self.scope.pop();
        let fold = Fold { range, first, second, accumulator, initial, condition, step, result };
        Ok((Node::Fold(Box::new(fold)), result_type))
    }

    /// A macro's step, and the type of the accumulator if the step says it.
    fn step(&mut self, fold: &ComprehensionExpr) -> Result<(Step, Option<Type>), CheckError> {
        let is_accumulator =
            |expr: &IdedExpr| matches!(&expr.expr, Expr::Ident(name) if *name == fold.accu_var);
        let guarded = match &fold.loop_step.expr {
            Expr::Call(call) if call.func_name == CONDITIONAL => match call.args.as_slice() {
                [guard, step, otherwise] if is_accumulator(otherwise) => Some((guard, step)),
                _ => None,
            },
            _ => None,
        };
        let (guard, step) = match guarded {
            Some((guard, step)) => (Some(guard), step),
            None => (None, &fold.loop_step),
        };
        if let Expr::Call(call) = &step.expr {
            match (call.func_name.as_str(), call.args.as_slice()) {
                (ADD, [accumulator, IdedExpr { id, expr: list @ Expr::List(_) }])
                    if is_accumulator(accumulator) =>
                {
                    let guard = guard.map(|guard| self.boolean(guard)).transpose()?;
                    let list = IdedExpr { id: *id, expr: list.clone() };
                    if let (Node::List(elements), ty) = self.check(&list)? {
                        return Ok((Step::Append { guard, elements }, Some(ty)));
                    }
                }
                (INSERT, [accumulator, key, value]) if is_accumulator(accumulator) => {
                    let guard = guard.map(|guard| self.boolean(guard)).transpose()?;
                    let ((key, key_type), (value, value_type)) =
                        (self.check(key)?, self.check(value)?);
                    let ty = Type::map(key_type, value_type);
                    return Ok((Step::Insert { guard, key, value }, Some(ty)));
                }
                _ => {}
            }
        }
        let (step, _) = self.check(&fold.loop_step)?;
        Ok((Step::Become(step), None))
    }
}

fn optional(ty: Type) -> Type {
    if matches!(ty, Type::Optional(_)) { ty } else { Type::optional(ty) }
}

fn join(id: u64, known: Option<Type>, ty: Type) -> Result<Type, CheckError> {
    match known {
        None => Ok(ty),
        Some(known) => match known.join(&ty) {
            Some(joined) => Ok(joined),
            None => fail(id, format!("expected type '{known}' but found '{ty}'")),
        },
    }
}

fn no_overload<T>(id: u64, name: &str, member: bool, types: &[Type]) -> Result<T, CheckError> {
    let shown: Vec<String> = types.iter().map(Type::to_string).collect();
    let applied = match (member, shown.split_first()) {
        (true, Some((of, rest))) => format!("{of}.({})", rest.join(", ")),
        _ => format!("({})", shown.join(", ")),
    };
    fail(id, format!("found no matching overload for '{name}' applied to '{applied}'"))
}

fn constant(literal: &LiteralValue) -> (Node, Type) {
    let (value, ty) = match literal {
        LiteralValue::Boolean(value) => (Value::Bool(*value.inner()), Type::Bool),
        LiteralValue::Bytes(value) => (Value::Bytes(value.inner().into()), Type::Bytes),
        LiteralValue::Double(value) => (Value::Double(*value.inner()), Type::Double),
        LiteralValue::Int(value) => (Value::Int(*value.inner()), Type::Int),
        LiteralValue::Null => (Value::Null, Type::Null),
        LiteralValue::String(value) => (Value::text(value.inner()), Type::String),
        LiteralValue::UInt(value) => (Value::Uint(*value.inner()), Type::Uint),
    };
    (Node::Constant(value), ty)
}

fn type_constant(name: &str) -> Option<(Node, Type)> {
    let (_, full) = TYPES.iter().find(|(one, _)| *one == name)?;
    Some((Node::Constant(Value::Type(Text::Borrowed(full))), Type::Type))
}
