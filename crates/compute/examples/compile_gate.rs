//! The compile gate: every module of kernels for every architecture, by NVRTC, and what the machine code needs: registers,
//! bytes spilled, shared memory. Called by `.ci/compile-gate`, which fetches the compiler; needs no GPU.
//!
//!     compile_gate TABLE.tsv             compares with the committed table
//!     compile_gate TABLE.tsv --update    writes it
//!     compile_gate TABLE.tsv --all       compares, and takes no one's word
//!
//! The table also has, for each module, a hash of everything that the compiler's result is a function of. Where it is still the
//! same, what the table says of the module is what the compiler said, and it is not asked again (but with --all).
//!
//! A kernel that spills registers (a loop that was not unrolled, an array that is indexed at run time), or has static shared
//! memory (the simulator watches dynamic memory only), fails in any case; a number that differs from the table fails until
//! the table is updated, and so is seen in the change's diff. What was compiled is kept in the cache, under `gate`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use casallm_compute::cuda::kernels::{entries, modules};
use casallm_compute::cuda::nvidia::compiler::{Compiler, Target, module_name};
use casallm_compute::cuda::nvidia::report::{log, needs, text_key};
use casallm_compute::cuda::nvidia::search::Surroundings;

const ARCHITECTURES: [&str; 6] = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120a"];

/// In the place of an entry, on the row that has a module's hash.
const TEXT: &str = "(text)";

/// Rows of (module and entry) to cells by architecture, or of (module and [`TEXT`]) to its hash.
type Rows = BTreeMap<String, Vec<String>>;

/// The rows of a table.
fn parse(table: &str) -> Rows {
    let row = |line: &str| {
        let mut cells = line.split('\t').map(str::to_owned);
        Some((format!("{}\t{}", cells.next()?, cells.next()?), cells.collect()))
    };
    table.lines().filter(|line| !line.starts_with('#')).filter_map(row).collect()
}

/// All modules but those of which `known` has rows for the same text, on all processors: rows of all; how many were compiled;
/// what went wrong.
fn compile(compiler: &Compiler, kept: &Path, known: &Rows) -> (Rows, usize, Vec<String>) {
    let targets = ARCHITECTURES.map(|arch| Target::Cubin(arch.to_owned()));
    let mut found = Rows::new();
    let mut changed = Vec::new();
    for module in modules() {
        let name = module_name(&module);
        let text = (format!("{name}\t{TEXT}"), vec![text_key(compiler, &module, &targets)]);
        if known.get(&text.0) == Some(&text.1) {
            let of_module = |row: &&String| row.strip_prefix(&name).is_some_and(|rest| rest.starts_with('\t'));
            found.extend(known.keys().filter(of_module).map(|row| (row.clone(), known[row].clone())));
        } else {
            changed.push(module);
        }
        found.insert(text.0, text.1);
    }
    let modules = changed;
    let jobs: Vec<_> = modules.iter().flat_map(|module| (0..ARCHITECTURES.len()).map(move |a| (module, a))).collect();
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(found);
    let wrong = Mutex::new(Vec::new());
    let work = || {
        while let Some((module, architecture)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let arch = ARCHITECTURES[*architecture];
            let complain =
                |what: String| wrong.lock().unwrap().push(format!("{}, {arch}: {what}", module_name(module)));
            let log = match log(compiler, module, &Target::Cubin(arch.to_owned()), kept.to_owned()) {
                Ok(log) => log,
                Err(error) => {
                    complain(error.to_string());
                    continue;
                }
            };
            for line in log.lines().filter(|line| line.contains("warning")) {
                complain(line.to_owned());
            }
            let reported = needs(&log);
            for (entry, _) in entries(module.family.text()) {
                let Some(needs) = reported.get(entry).filter(|needs| needs.registers > 0) else {
                    complain(format!("nothing is reported of {entry}:\n{}", log));
                    continue;
                };
                if needs.spilled > 0 || needs.shared > 0 {
                    complain(format!("{entry} needs {needs}"));
                }
                let row = format!("{}\t{entry}", module_name(module));
                let mut rows = rows.lock().unwrap();
                let cells = rows.entry(row).or_insert_with(|| vec![String::from("-"); ARCHITECTURES.len()]);
                cells[*architecture] = needs.to_string();
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    (rows.into_inner().unwrap(), modules.len(), wrong.into_inner().unwrap())
}

fn table(compiler: &Compiler, rows: &BTreeMap<String, Vec<String>>) -> String {
    let mut text = format!(
        "# Registers a thread of each kernel (and bytes it should not need). Written by `.ci/compile-gate --update`, NVRTC {}.\n\
         module\tkernel\t{}\n",
        compiler.version(),
        ARCHITECTURES.join("\t")
    );
    for (row, cells) in rows {
        let _ = writeln!(text, "{row}\t{}", cells.join("\t"));
    }
    text
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (path, update, all) = match &arguments[..] {
        [path] => (path, false, false),
        [path, flag] if flag == "--update" => (path, true, true),
        [path, flag] if flag == "--all" => (path, false, true),
        _ => {
            eprintln!("usage: compile_gate TABLE.tsv [--update | --all]");
            return ExitCode::from(2);
        }
    };
    let surroundings = Surroundings::here();
    let compiler = match Compiler::open(&surroundings, 13) {
        Ok(compiler) => compiler,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let kept = surroundings.cache().unwrap_or_else(std::env::temp_dir).join("gate");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    let known = if all { Rows::new() } else { parse(&committed) };
    let (rows, compiled, mut wrong) = compile(&compiler, &kept, &known);
    let text = table(&compiler, &rows);
    if update {
        if let Err(error) = std::fs::write(path, &text) {
            wrong.push(format!("{path}: {error}"));
        }
    } else {
        let (old, new): (Vec<_>, Vec<_>) = (committed.lines().collect(), text.lines().collect());
        let changed = old.iter().filter(|line| !new.contains(line)).map(|line| format!("- {line}"));
        let changes: Vec<_> =
            changed.chain(new.iter().filter(|line| !old.contains(line)).map(|line| format!("+ {line}"))).collect();
        if !changes.is_empty() {
            wrong.push(format!("{path} differs (--update writes it):\n{}", changes.join("\n")));
        }
    }
    for problem in &wrong {
        println!("{problem}");
    }
    let (modules, architectures) = (modules().len(), ARCHITECTURES.len());
    let kernels = rows.len() - modules;
    println!(
        "{modules} modules, {kernels} kernels, {architectures} architectures; {compiled} modules compiled: {} problems",
        wrong.len()
    );
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
