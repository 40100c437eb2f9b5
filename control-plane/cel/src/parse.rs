//! Texts to syntax trees, with the crate `cel`'s parser.

use cel::common::ast::{IdedExpr, SourceInfo};
use cel::parser::PrattParser;

/// A rule may be so long, in bytes.
const MAX_LENGTH: usize = 10_000;
/// And have so many operators: what nests deeper than that could exhaust the stack.
const MAX_OPERATORS: usize = 1_000;
/// What macros may unfold to.
const MAX_NODES: usize = 20_000;

fn parser() -> PrattParser {
    PrattParser::default()
        .enable_optional_syntax(true)
        .max_recursion_depth(64)
        .max_expression_node_count(MAX_NODES)
        .error_reporting_limit(10)
}

/// The tree of `text`.
///
/// # Errors
/// What is wrong with it, as Kubernetes says it.
pub(crate) fn parse(text: &str) -> Result<IdedExpr, String> {
    if text.len() > MAX_LENGTH {
        return Err(format!("the expression is longer than {MAX_LENGTH} bytes"));
    }
    let is_operator = |byte: &u8| b"!-+*/%.[?&|<>={:".contains(byte);
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| *word == "in");
    if text.bytes().filter(is_operator).count() + words.count() > MAX_OPERATORS {
        return Err(format!("the expression has more than {MAX_OPERATORS} operators"));
    }
    parser().parse(text).map_err(|errors| {
        let all: Vec<String> = errors
            .errors
            .iter()
            .map(|error| report(text, error.pos.0, error.pos.1, &error.msg))
            .collect();
        all.join("\n")
    })
}

/// `message` about the part of `text` with this id, as Kubernetes shows it.
pub(crate) fn locate(text: &str, id: u64, message: &str) -> String {
    // The parser tells where things are only when it fails, so it is made to: what follows a whole
    // expression is an error at its end, and what comes before keeps its ids.
    let places = parser().parse(&format!("{text}\n)")).err();
    let places =
        places.and_then(|errors| errors.errors.into_iter().find_map(|one| one.source_info));
    let start = places.and_then(|info: std::sync::Arc<SourceInfo>| info.offset_for(id));
    let start = start.map_or(0, |(start, _)| usize::try_from(start).unwrap_or(0));
    let before = text.get(..start).unwrap_or("");
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    report(text, isize::try_from(line).unwrap_or(1), isize::try_from(column).unwrap_or(1), message)
}

fn report(text: &str, line: isize, column: isize, message: &str) -> String {
    let shown = usize::try_from(line - 1).ok().and_then(|index| text.lines().nth(index));
    let dots = ".".repeat(usize::try_from(column - 1).unwrap_or(0).min(MAX_LENGTH));
    let shown = shown.unwrap_or("");
    format!("ERROR: <input>:{line}:{column}: {message}\n | {shown}\n | {dots}^")
}
