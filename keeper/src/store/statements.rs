//! Every SQL statement of this crate, prepared on the database under test: SQLite, or PostgreSQL under `script/with-postgres`. The
//! statements are read from the sources, so none is forgotten; those that are built at run time are built as there.

use std::path::{Path, PathBuf};

use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

use super::bulk::Dialect;
use super::testing;

/// What a statement begins with.
const VERBS: [&str; 6] = ["SELECT ", "INSERT INTO ", "INSERT {", "UPDATE ", "DELETE FROM ", "WITH "];

/// Types of the rows that statements take as a table `v`: PostgreSQL knows them from what is bound, and nothing is bound here.
/// By the statement's beginning.
const ROWS: [(&str, &[&str]); 3] = [
    ("SELECT o.order_id FROM (VALUES", &["bytea", "bytea", "bytea", "bytea"]),
    ("UPDATE receipts SET state = 'batched'", &["bytea", "bigint", "bigint"]),
    ("UPDATE receipts SET state = 'settled'", &["bytea", "bigint", "bigint", "text"]),
];

/// A string of a source file, and the code between the one before and it.
struct Literal {
    before: String,
    text: String,
}

/// The strings of a source; comments are left out.
fn literals(source: &str) -> Vec<Literal> {
    let mut found = Vec::new();
    let mut before = String::new();
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => {
                for c in chars.by_ref() {
                    if c == '\n' {
                        break;
                    }
                }
            }
            // A character, not a lifetime: the quotes in it begin no string.
            '\'' => {
                let rest: Vec<char> = chars.clone().take(3).collect();
                let length = match rest.as_slice() {
                    ['\\', _, '\''] => 3,
                    [_, '\'', ..] => 2,
                    _ => 0,
                };
                for _ in 0..length {
                    chars.next();
                }
            }
            '"' => {
                let mut text = String::new();
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => match chars.next() {
                            Some('\n') => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                            Some('n') => text.push('\n'),
                            Some(c) => text.push(c),
                            None => {}
                        },
                        c => text.push(c),
                    }
                }
                found.push(Literal { before: std::mem::take(&mut before), text });
            }
            c => before.push(c),
        }
    }
    found
}

/// `row` as often as there are rows, with types of the parameters where the statement does not tell them.
fn rows(dialect: Dialect, statement: &str, row: &str, count: usize) -> String {
    let text = dialect.rows(row, count);
    if dialect == Dialect::Sqlite || !statement.contains("AS v") {
        return text;
    }
    let known = ROWS.iter().find(|(start, _)| statement.starts_with(start));
    let (_, types) = known.unwrap_or_else(|| panic!("add the types of its rows to ROWS: {statement}"));
    // From the last, so that $1 is not found in $10.
    let all = (1..=types.len() * count).rev();
    all.fold(text, |text, n| {
        text.replacen(&format!("${n}"), &format!("CAST(?{n} AS {})", types[(n - 1) % types.len()]), 1)
    })
    .replace('?', "$")
}

/// The statements of a source as the database gets them.
fn statements(source: &str, dialect: Dialect) -> Vec<String> {
    let all = literals(source);
    let columns = all.iter().find(|one| one.before.ends_with("COLUMNS: &str = "));
    let mut found = Vec::new();
    let mut prefix = None;
    for (index, one) in all.iter().enumerate() {
        let text = match columns {
            Some(columns) => one.text.replace("{COLUMNS}", &columns.text),
            None => one.text.clone(),
        };
        // A macro that puts a beginning in front of what it is given.
        if one.before.trim_end().ends_with("concat!(") {
            prefix = Some(text.clone());
        }
        if let (true, Some(prefix)) = (one.before.trim_end().ends_with("settleable!("), &prefix) {
            found.push(format!("{prefix}{text}"));
            continue;
        }
        let begins = VERBS.iter().any(|verb| text.trim_start().starts_with(verb));
        if !begins || (dialect == Dialect::Sqlite && text.contains("pg_")) {
            continue;
        }
        if !text.contains('{') {
            found.push(text);
            continue;
        }
        let is_row = |one: &&Literal| one.before.ends_with(".rows(");
        let behind = all[index + 1..].iter().filter(is_row);
        for count in [1, 2, 64] {
            let mut built = String::new();
            let mut rest = text.as_str();
            let mut behind = behind.clone();
            while let Some((start, after)) = rest.split_once('{') {
                let (name, after) = after.split_once('}').unwrap();
                built.push_str(start);
                let now = usize::from(text.contains("{now}"));
                let all = dialect.rows("@", count + now);
                let (first, others) = all.split_once(", ").unwrap_or_default();
                match name {
                    // Numbered below, with the others.
                    "" if text.contains('@') => built.push_str(&vec!["@"; count].join(", ")),
                    "" => built.push_str(&rows(dialect, &text, &behind.next().unwrap().text, count)),
                    "now" => built.push_str(first),
                    "ids" if now == 1 => built.push_str(others),
                    "ids" => built.push_str(&all),
                    "live" => built.push_str("'open', 'expired'"),
                    "chain_id" => built.push('1'),
                    "or_ignore" => built.push_str(dialect.or_ignore()),
                    "or_nothing" => built.push_str(dialect.or_nothing()),
                    "bytes" => built.push_str(dialect.bytes()),
                    other => panic!("tell how {{{other}}} is filled: {text}"),
                }
                rest = after;
            }
            built.push_str(rest);
            found.push(if built.contains('@') { dialect.rows(&built, 1) } else { built });
        }
    }
    found
}

/// Sources with the code that a keeper runs, without its tests.
fn sources(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "tests" {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") && !["tests.rs", "fixtures.rs", "copies.rs", "statements.rs"].contains(&&*name)
        {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, code(&text).to_owned()));
        }
    }
}

/// A source up to its first module of tests; modules of tests in files of their own are named before it.
fn code(source: &str) -> &str {
    let tests = source.match_indices("#[cfg(test)]\n").find(|(at, _)| {
        let line = source[*at..].lines().nth(1).unwrap_or_default();
        line.contains("mod ") && line.ends_with('{')
    });
    tests.map_or(source, |(at, _)| &source[..at])
}

#[tokio::test]
async fn every_statement_can_be_prepared() {
    let dir = tempfile::tempdir().unwrap();
    let store = testing::open(&dir).await;
    let mut db = store.writer.acquire().await.unwrap();
    let dialect = Dialect::of(&db);
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    assert!(db.prepare("SELECT order_id FROM orders WHERE no_such_column = $1".into_sql_str()).await.is_err());
    let (mut prepared, mut failed) = (0, Vec::new());
    for (path, code) in &files {
        let found = statements(code, dialect);
        let asks = code.contains("sqlx::query") || code.contains("= query(");
        assert!(!asks || !found.is_empty() || path.ends_with("bulk.rs"), "no statement found in {}", path.display());
        for statement in found {
            prepared += 1;
            if let Err(error) = db.prepare(AssertSqlSafe(statement.clone()).into_sql_str()).await {
                let name = path.file_name().unwrap().to_string_lossy();
                failed.push(format!("{name}: {error}\n    {}", &statement[..statement.len().min(300)]));
            }
        }
    }
    assert!(failed.is_empty(), "{} of {prepared}:\n{}", failed.len(), failed.join("\n"));
    assert!(prepared > 250, "only {prepared} statements found");
}

#[test]
fn strings_are_read_as_the_compiler_does() {
    let source = r#"// "no" string
        let a = "one"; let b = '"'; let c: &'static str = "two \
             lines\n";"#;
    let found: Vec<String> = literals(source).into_iter().map(|one| one.text).collect();
    assert_eq!(found, ["one", "two lines\n"]);
}
