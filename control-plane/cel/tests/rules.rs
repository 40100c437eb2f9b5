//! Rules over objects, from their texts to what they answer.

mod hostile;

use bulkhead_cel::{Budget, EvalError, Expected, Program, Type};
use hostile::{example, object, self_type};
use proptest::prelude::*;
use serde_json::json;

fn holds(rule: &str) -> Result<bool, String> {
    let program = Program::compile(rule, &self_type(), false, Expected::Bool)
        .map_err(|error| error.to_string())?;
    let (now, budget) = (example(), Budget::new());
    program.holds(&now, None, &budget).map_err(|error| error.to_string())
}

#[test]
fn what_holds() {
    for rule in [
        "self.min <= self.max && self.min + 2 == self.max",
        "self.ratio < 1 && self.ratio * 2.0 == 1.0 && double(self.min) == 1.0",
        "self.name.startsWith('web') && self.name.matches('^[a-z]+-[0-9]$') && size(self.name) == 5",
        "self.name.find('[0-9]+') == '1' && 'a1b22'.findAll('[0-9]+') == ['1', '22']",
        "self.x__dash__y == 7 && self.__namespace__ == 'n'",
        "has(self.part.name) && !has(self.part.size) && !has(self.labels.none)",
        "self.names.all(n, n in ['a', 'b', 'c']) && self.names.exists_one(n, n == 'a')",
        "self.names.exists(n, n == 'b') && !self.numbers.exists(n, n > 3)",
        "self.numbers.map(n, n * 2) == [2, 4, 6] && self.numbers.filter(n, n > 1).size() == 2",
        "self.numbers.map(n, n > 1, n * 2) == [4, 6]",
        "self.numbers.isSorted() && self.numbers.sum() == 6 && self.numbers.max() == 3",
        "self.parts.map(p, p.size).min() == 1 && self.names.indexOf('b') == 1",
        "self.parts.map(p, p.size).sum() == 3",
        "self.set == ['y', 'x'] && self.set != ['x', 'z'] && self.names != ['c', 'b', 'a']",
        "(self.set + ['y', 'z']).size() == 3",
        "self.labels.all(k, self.labels[k].size() > 2) && self.labels['app'] == 'web'",
        "'app' in self.labels && self.labels.exists(k, k == 'tier')",
        "self.numbers.all(i, n, n == i + 1) && self.labels.exists(k, v, k == 'app' && v == 'web')",
        "self.names.transformList(i, n, n + string(i)) == ['a0', 'b1', 'c2']",
        "self.labels.transformMap(k, v, k == 'app', v + '!') == {'app': 'web!'}",
        "self.?part.?size.orValue(4) == 4 && self.?min.hasValue() && self.min == self.?min.value()",
        "self.labels[?'none'].orValue('x') == 'x' && [?self.?part.?size, 1] == [1]",
        "self.?min.optMap(m, m + 1) == optional.of(2) && !optional.none().hasValue()",
        "self.port == 'http' && type(self.port) == string && (type(self.port) != int || self.port > 0)",
        "type(self.port) == int ? self.port > 1 : self.port.size() == 4",
        "self.since < timestamp('2024-03-01T00:00:00Z') && self.since.getFullYear() == 2024",
        "self.since.getMonth() == 1 && self.since.getDayOfMonth('+13:00') == 0 && self.since.getDate() == 29",
        "self.timeout == duration('90s') && self.timeout.getSeconds() == 90",
        "self.since + duration('12h') > timestamp('2024-03-01T00:00:00Z')",
        "self.data == b'hi' && string(self.data) == 'hi'",
        "'a,b'.split(',') == ['a', 'b'] && ['a', 'b'].join('-') == 'a-b' && 'aXb'.lowerAscii() == 'axb'",
        "'hello'.substring(1, 3) == 'el' && 'hello'.charAt(4) == 'o' && 'héllo'.indexOf('l') == 2",
        "'hello'.lastIndexOf('l') == 3 && ' a '.trim() == 'a' && 'aab'.replace('a', 'x', 1) == 'xab'",
        "'%s is %d of %.2f, %x'.format(['a', 3, 1.5, 255]) == 'a is 3 of 1.50, ff'",
        "'%s'.format([[1, 2]]) == '[1, 2]' && strings.quote('a\"b') == '\"a\\\\\"b\"'",
        "quantity('1.5Gi').isGreaterThan(quantity('1Gi')) && isQuantity('100m') && !isQuantity('x')",
        "quantity('500m').add(quantity('1500m')).asInteger() == 2 && quantity('-1k').sign() == -1",
        "ip('10.0.0.1').family() == 4 && isIP('::1') && !isIP('1.2.3') && ip('::1').isLoopback()",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsIP(ip('11.0.0.1'))",
        "cidr('10.0.0.0/8').containsCIDR('10.2.0.0/16') && cidr('10.9.0.0/8').masked() == cidr('10.0.0.0/8')",
        "string(cidr('10.0.0.0/8').ip()) == '10.0.0.0' && cidr('::/0').prefixLength() == 0",
        "url('https://user@example.com:80/a%20b?k=v&k=w').getHost() == 'example.com:80'",
        "url('https://[::1]:8443/p').getHostname() == '::1' && url('https://[::1]:8443/p').getPort() == '8443'",
        "url('https://h/?k=v&k=w').getQuery()['k'] == ['v', 'w'] && isURL('/path') && !isURL('../x')",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.0.0-rc.1').compareTo(semver('1.0.0')) == -1",
        "isSemver('1.2.3') && !isSemver('v1.2') && isSemver('v1.2', true)",
        "!format.dns1123Label().validate(self.name).hasValue()",
        "format.named('uuid').value().validate('x').value().size() == 1",
        "sets.contains(self.names, ['a']) && sets.intersects([1], [1, 2]) && sets.equivalent([1, 2], [2, 1, 1])",
        "1 / 2 == 0 && -7 % 3 == -1 && 7u > 3u && dyn(1) == dyn(1.0) && dyn(1) != dyn('1')",
        "[1, 2, 3][1] == 2 && {'a': 1}['a'] == 1 && {'a': 1}.a == 1 && 2 in {1: 'x', 2: 'y'}",
        // Errors that do not decide.
        "self.labels.none == 'x' || true",
        "[0, 1].exists(x, 1 / x == 1) && ![0, 2].all(x, 1 / x == 1)",
        "null == null && type(null) == null_type && type(self.since) == google.protobuf.Timestamp",
    ] {
        assert_eq!(holds(rule), Ok(true), "{rule}");
    }
}

#[test]
fn what_does_not_compile() {
    for (rule, expected) in [
        ("self.size > 1", "ERROR: <input>:1:5: undefined field 'size'\n | self.size > 1\n | ....^"),
        (
            "self.min == 'a'",
            "ERROR: <input>:1:10: found no matching overload for '_==_' applied to '(int, string)'\n | self.min == 'a'\n | .........^",
        ),
        (
            "true &&\n  other",
            "ERROR: <input>:2:3: undeclared reference to 'other' (in container '')\n |   other\n | ..^",
        ),
        ("self.min", "must evaluate to a bool"),
        ("self.min ==", "Syntax error"),
        ("self.names.nothing()", "undeclared reference to 'nothing'"),
        ("math.greatest(1, 2) == 2", "undeclared reference to"),
        ("authorizer.path('/').check('get').allowed()", "undeclared reference to"),
        ("self.min.startsWith('a')", "applied to 'int.(string)'"),
        ("self.name.matches('(')", "error parsing regexp"),
        ("self.since.getHours('Europe/Paris') == 1", "time zone 'Europe/Paris' is not supported"),
        ("self.min.all(x, true)", "cannot be range of a comprehension"),
        ("[1, 'a'] == []", "expected type 'int' but found 'string'"),
        ("self.min ? true : false", "expected type 'bool' but found 'int'"),
        ("Thing{a: 1} == 1", "undeclared reference to 'Thing'"),
    ] {
        let error = holds(rule).unwrap_err();
        assert!(error.contains(expected), "{rule}: {error}");
    }
}

#[test]
fn what_fails_when_it_runs() {
    for (rule, expected) in [
        ("self.part.size > 0", "no such key: size"),
        ("self.names[7] == 'a'", "index out of bounds: 7"),
        ("1 / (self.min - 1) == 1", "division by zero"),
        ("9223372036854775807 + self.min > 0", "integer overflow"),
        ("self.port > 1", "no such overload: _>_"),
        ("[0, 1].all(x, 1 / x == 1)", "division by zero"),
        ("int(self.name) == 1", "not of type int"),
        ("ip(self.name).family() == 4", "parse error"),
        ("self.name.matches(self.name + '(')", "error parsing regexp"),
    ] {
        let error = holds(rule).unwrap_err();
        assert!(error.contains(expected), "{rule}: {error}");
    }
}

#[test]
fn changes() {
    let rule = |rule, optional| {
        let ty = self_type();
        let program = Program::compile(rule, &ty, optional, Expected::Bool).unwrap();
        assert!(program.uses_old_self());
        program
    };
    let (now, mut before) = (example(), example());
    let budget = Budget::new();
    let grows = rule("self.min >= oldSelf.min", false);
    assert_eq!(grows.holds(&now, Some(&before), &budget), Ok(true));
    before["min"] = 5.into();
    assert_eq!(grows.holds(&now, Some(&before), &budget), Ok(false));
    let optional = rule("!oldSelf.hasValue() || oldSelf.value().min == 5", true);
    assert_eq!(optional.holds(&now, Some(&before), &budget), Ok(true));
    assert_eq!(optional.holds(&now, None, &budget), Ok(true));
    let message =
        Program::compile("'min is ' + string(self.min)", &self_type(), false, Expected::String);
    assert_eq!(message.unwrap().text(&now, None, &budget).unwrap(), "min is 1");
}

#[test]
fn cost_is_bounded() {
    let ty = object("object", vec![("numbers", Type::list(Type::Int)), ("text", Type::String)]);
    let object = json!({"numbers": (0..2000).collect::<Vec<_>>(), "text": "a".repeat(1 << 20)});
    for rule in [
        "self.numbers.all(a, self.numbers.all(b, self.numbers.all(c, a + b + c >= 0)))",
        "self.numbers.map(a, self.text + self.text).size() > 0",
        "self.numbers.all(a, self.text.replace('a', self.text).size() > 0)",
        "self.numbers.all(a, self.text.matches('(a|b)*c') || true)",
        "self.numbers.map(a, self.numbers.map(b, self.numbers)).size() == 0",
        "self.numbers.all(a, '%s'.format([self.numbers]) != '')",
        "self.numbers.all(a, self.text.split('').size() > 0)",
    ] {
        let program = Program::compile(rule, &ty, false, Expected::Bool).unwrap();
        let budget = Budget::new();
        assert_eq!(program.holds(&object, None, &budget), Err(EvalError::OverBudget), "{rule}");
    }
}

#[test]
fn hostile_texts_are_refused() {
    for text in [
        "(".repeat(9_000),
        "!".repeat(9_000),
        "[".repeat(9_000),
        "a?b:".repeat(2_000),
        format!("self{}", ".a".repeat(900)),
        vec!["1"; 900].join("+"),
        format!("'{}' == ''", "a".repeat(20_000)),
        (0..30).fold("true".into(), |inside, _| format!("[1].all(x, {inside})")),
    ] {
        let _ = Program::compile(&text, &self_type(), false, Expected::Bool);
    }
}

proptest! {
    #[test]
    fn any_text_compiles_or_not(text in "[a-z0-9 .,()\\[\\]{}+*/%<>=!&|?:'\"-]{0,40}") {
        hostile::drive(&text);
    }

    #[test]
    fn any_words_compile_or_not(words in proptest::collection::vec(proptest::sample::select(vec![
        "self", "oldSelf", ".min", ".names", ".labels", ".parts", ".all(x, ", ".map(x, ", ".filter(x, ", "x",
        "(", ")", "[", "]", "'a'", "1", "2u", "1.5", "true", "null", "==", "!=", "&&", "||", "+", "-", "in",
        "?", ":", ",", ".?min", ".orValue(", "has(", ".size()", "string(", "quantity(", "duration('1s')",
        ".format([", "{", "}", ".sum()", ".matches(", "\n",
    ]), 0..14)) {
        hostile::drive(&words.concat());
        hostile::drive(&words.join(" "));
    }

    #[test]
    fn numbers_compare_as_they_count(a in any::<i64>(), b in any::<i64>()) {
        let rule = format!("({a} < {b}) == {} && dyn({a}) == dyn({a})", a < b);
        prop_assert_eq!(holds(&rule), Ok(true));
    }
}
