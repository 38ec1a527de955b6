//! One application in several languages. Each language is a row of [`language::LANGUAGES`]: how its sample host and
//! client of the service `greeter` are started (`sdk-clients/README.md` says what those have to do). Every test goes
//! over all rows, or once for each.

mod chain;
mod circle;
mod events;
mod hello;
mod java;
mod js;
mod kills;
mod language;
mod leaving;
mod nonsense;
mod python;
mod rust;
