//! Lists, sets and maps.
//! <https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-list-library>,
//! <https://github.com/google/cel-go/blob/master/ext/README.md#sets>

use std::cmp::Ordering;

use crate::budget::Budget;
use crate::compare::{contains, equal, order};
use crate::eval::EvalError;
use crate::overload::{Declared, Function, mismatch};
use crate::types::Topology;
use crate::value::{List, Map, Result, Value};

/// `a + b`: lists one after the other, sets without what is in both, maps with the elements of the
/// second in place of those of the same keys.
pub(super) fn joined<'a>(a: &List<'a>, b: &List<'a>, budget: &Budget) -> Result<Vec<Value<'a>>> {
    budget.spend(a.len() + b.len())?;
    let mut all = a.iter().collect::<Result<Vec<_>>>()?;
    for one in b.iter() {
        let one = one?;
        match a.topology() {
            Topology::Atomic => all.push(one),
            Topology::Set => {
                if !contains(a, &one, budget)? {
                    all.push(one);
                }
            }
            Topology::Map(keys) => {
                budget.spend(all.len())?;
                match all.iter_mut().find(|other| same_keys(other, &one, keys)) {
                    Some(other) => *other = one,
                    None => all.push(one),
                }
            }
        }
    }
    Ok(all)
}

fn same_keys(a: &Value<'_>, b: &Value<'_>, keys: &[String]) -> bool {
    match (a, b) {
        (Value::Object(a, _), Value::Object(b, _)) => {
            keys.iter().all(|key| a.get(key) == b.get(key))
        }
        _ => false,
    }
}

fn position(list: &List<'_>, value: &Value<'_>, last: bool, budget: &Budget) -> Result<i64> {
    let mut found = -1;
    for (index, one) in list.iter().enumerate() {
        if equal(&one?, value, budget)? {
            found = i64::try_from(index).unwrap_or(i64::MAX);
            if !last {
                break;
            }
        }
    }
    Ok(found)
}

fn extreme<'a>(
    list: &List<'a>,
    wanted: Ordering,
    name: &str,
    budget: &Budget,
) -> Result<Value<'a>> {
    let mut best: Option<Value<'a>> = None;
    for one in list.iter() {
        budget.spend(1)?;
        let one = one?;
        match &best {
            Some(best) if order(&one, best) != Some(wanted) => {}
            _ => best = Some(one),
        }
    }
    best.ok_or_else(|| EvalError::failed(format!("{name} called on empty list")))
}

const MIN: Function = |a, budget| match a {
    [Value::List(list)] => extreme(list, Ordering::Less, "min", budget),
    _ => mismatch(),
};
const MAX: Function = |a, budget| match a {
    [Value::List(list)] => extreme(list, Ordering::Greater, "max", budget),
    _ => mismatch(),
};
const IS_SORTED: Function = |a, budget| match a {
    [Value::List(list)] => {
        let mut before: Option<Value<'_>> = None;
        for one in list.iter() {
            budget.spend(1)?;
            let one = one?;
            if before.is_some_and(|before| order(&before, &one) == Some(Ordering::Greater)) {
                return Ok(Value::Bool(false));
            }
            before = Some(one);
        }
        Ok(Value::Bool(true))
    }
    _ => mismatch(),
};

macro_rules! ordered {
    ($($list:literal => $element:literal),+) => {
        &[$(
            Declared::member("min", $list, $element, MIN),
            Declared::member("max", $list, $element, MAX),
            Declared::member("isSorted", $list, "bool", IS_SORTED),
        )+]
    };
}

pub(super) const ORDERED: &[Declared] = ordered!(
    "list<int>" => "int",
    "list<uint>" => "uint",
    "list<double>" => "double",
    "list<bool>" => "bool",
    "list<string>" => "string",
    "list<bytes>" => "bytes",
    "list<timestamp>" => "timestamp",
    "list<duration>" => "duration"
);

fn summed<'a>(list: &List<'a>, zero: Value<'a>, budget: &Budget) -> Result<Value<'a>> {
    let overflow = || EvalError::failed("integer overflow");
    let mut sum = zero;
    for one in list.iter() {
        budget.spend(1)?;
        sum = match (sum, one?) {
            (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_add(b).ok_or_else(overflow)?),
            (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_add(b).ok_or_else(overflow)?),
            (Value::Double(a), Value::Double(b)) => Value::Double(a + b),
            (Value::Duration(a), Value::Duration(b)) => {
                Value::Duration(a.checked_add(b).ok_or_else(overflow)?)
            }
            _ => return mismatch(),
        };
    }
    Ok(sum)
}

/// Whether every element of `part` is in `whole`.
fn includes(whole: &List<'_>, part: &List<'_>, budget: &Budget) -> Result<bool> {
    for one in part.iter() {
        if !contains(whole, &one?, budget)? {
            return Ok(false);
        }
    }
    Ok(true)
}

const SIZE_OF_LIST: Function = |a, _| match a {
    [Value::List(list)] => Ok(Value::Int(i64::try_from(list.len()).unwrap_or(i64::MAX))),
    _ => mismatch(),
};
const SIZE_OF_MAP: Function = |a, _| match a {
    [Value::Map(map)] => Ok(Value::Int(i64::try_from(map.len()).unwrap_or(i64::MAX))),
    _ => mismatch(),
};

pub(super) const FUNCTIONS: &[Declared] = &[
    Declared::global("size", "list<A>", "int", SIZE_OF_LIST),
    Declared::member("size", "list<A>", "int", SIZE_OF_LIST),
    Declared::global("size", "map<A, B>", "int", SIZE_OF_MAP),
    Declared::member("size", "map<A, B>", "int", SIZE_OF_MAP),
    Declared::global("@in", "A, list<A>", "bool", |a, budget| match a {
        [value, Value::List(list)] => Ok(Value::Bool(contains(list, value, budget)?)),
        _ => mismatch(),
    }),
    Declared::global("@in", "A, map<A, B>", "bool", |a, budget| match a {
        [key, Value::Map(map)] => {
            if let Map::Made(map) = map {
                budget.spend(map.len())?;
            }
            Ok(Value::Bool(map.get(key).is_some()))
        }
        _ => mismatch(),
    }),
    Declared::member("indexOf", "list<A>, A", "int", |a, budget| match a {
        [Value::List(list), value] => Ok(Value::Int(position(list, value, false, budget)?)),
        _ => mismatch(),
    }),
    Declared::member("lastIndexOf", "list<A>, A", "int", |a, budget| match a {
        [Value::List(list), value] => Ok(Value::Int(position(list, value, true, budget)?)),
        _ => mismatch(),
    }),
    Declared::member("sum", "list<int>", "int", |a, budget| match a {
        [Value::List(list)] => summed(list, Value::Int(0), budget),
        _ => mismatch(),
    }),
    Declared::member("sum", "list<uint>", "uint", |a, budget| match a {
        [Value::List(list)] => summed(list, Value::Uint(0), budget),
        _ => mismatch(),
    }),
    Declared::member("sum", "list<double>", "double", |a, budget| match a {
        [Value::List(list)] => summed(list, Value::Double(0.0), budget),
        _ => mismatch(),
    }),
    Declared::member("sum", "list<duration>", "duration", |a, budget| match a {
        [Value::List(list)] => summed(list, Value::Duration(::time::Duration::ZERO), budget),
        _ => mismatch(),
    }),
    Declared::global("sets.contains", "list<A>, list<A>", "bool", |a, budget| match a {
        [Value::List(whole), Value::List(part)] => Ok(Value::Bool(includes(whole, part, budget)?)),
        _ => mismatch(),
    }),
    Declared::global("sets.equivalent", "list<A>, list<A>", "bool", |a, budget| match a {
        [Value::List(a), Value::List(b)] => {
            Ok(Value::Bool(includes(a, b, budget)? && includes(b, a, budget)?))
        }
        _ => mismatch(),
    }),
    Declared::global("sets.intersects", "list<A>, list<A>", "bool", |a, budget| match a {
        [Value::List(a), Value::List(b)] => {
            for one in a.iter() {
                if contains(b, &one?, budget)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        _ => mismatch(),
    }),
];
