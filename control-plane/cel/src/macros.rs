//! Macros that the parser leaves as calls: those with two variables.
//! <https://github.com/google/cel-go/blob/master/ext/comprehensions.go>

use cel::common::ast::operators::NOT_STRICTLY_FALSE;
use cel::common::ast::operators::{ADD, CONDITIONAL, EQUALS, LOGICAL_AND, LOGICAL_NOT, LOGICAL_OR};
use cel::common::ast::{
    CallExpr, ComprehensionExpr, Expr, IdedExpr, ListExpr, LiteralValue, MapExpr,
};

/// The accumulator's name, which no program can write.
pub(crate) const RESULT: &str = "@result";
/// Adds an entry to a map: accumulator, key and value.
pub(crate) const INSERT: &str = "cel.@mapInsert";

/// What a call of a macro with two variables stands for; `None` if it is none.
pub(crate) fn expand(id: u64, call: &CallExpr) -> Option<IdedExpr> {
    let range = call.target.as_deref()?;
    let (first, second, rest) = match call.args.as_slice() {
        [first, second, rest @ ..] => (variable(first)?, variable(second)?, rest),
        _ => return None,
    };
    let make = |expr| IdedExpr { id, expr };
    let function = |name: &str, args: Vec<IdedExpr>| {
        make(Expr::Call(CallExpr { func_name: name.into(), target: None, args }))
    };
    let result = || make(Expr::Ident(RESULT.into()));
    let literal = |value| make(Expr::Literal(value));
    let boolean = |value: bool| literal(LiteralValue::Boolean(value.into()));
    let (guard, then) = match rest {
        [then] => (None, then.clone()),
        [guard, then] => (Some(guard.clone()), then.clone()),
        _ => return None,
    };
    let guarded = |step: IdedExpr| match guard.clone() {
        Some(guard) => function(CONDITIONAL, vec![guard, step, result()]),
        None => step,
    };
    let (initial, condition, step, outcome) = match (call.func_name.as_str(), &guard) {
        ("all", None) => (
            boolean(true),
            function(NOT_STRICTLY_FALSE, vec![result()]),
            function(LOGICAL_AND, vec![result(), then]),
            result(),
        ),
        ("exists", None) => {
            let not = function(LOGICAL_NOT, vec![result()]);
            let condition = function(NOT_STRICTLY_FALSE, vec![not]);
            let step = function(LOGICAL_OR, vec![result(), then]);
            (boolean(false), condition, step, result())
        }
        ("existsOne" | "exists_one", None) => {
            let one = || literal(LiteralValue::Int(1.into()));
            let more = function(ADD, vec![result(), one()]);
            let step = function(CONDITIONAL, vec![then, more, result()]);
            let outcome = function(EQUALS, vec![result(), one()]);
            (literal(LiteralValue::Int(0.into())), boolean(true), step, outcome)
        }
        ("transformList", _) => {
            let added = make(Expr::List(ListExpr::new(vec![then])));
            let step = guarded(function(ADD, vec![result(), added]));
            (make(Expr::List(ListExpr::default())), boolean(true), step, result())
        }
        ("transformMap", _) => {
            let key = make(Expr::Ident(first.clone()));
            let step = guarded(function(INSERT, vec![result(), key, then]));
            (make(Expr::Map(MapExpr::default())), boolean(true), step, result())
        }
        _ => return None,
    };
    Some(make(Expr::Comprehension(Box::new(ComprehensionExpr {
        iter_range: range.clone(),
        iter_var: first,
        iter_var2: Some(second),
        accu_var: RESULT.into(),
        accu_init: initial,
        loop_cond: condition,
        loop_step: step,
        result: outcome,
    }))))
}

fn variable(expr: &IdedExpr) -> Option<String> {
    match &expr.expr {
        Expr::Ident(name) => Some(name.clone()),
        _ => None,
    }
}
