//! A run that is killed after any of its records is taken up, or taken back. What becomes of an app's writes meanwhile is looked
//! for in `writer`.

use pgconvoy::runbook::heroku::Order;
use pgconvoy::runbook::{Confirmed, Ended, Error, Journal};

use crate::fixture::{Case, ORIGINAL};

/// How many records a run writes that nothing happens to.
async fn records() -> u64 {
    let case = Case::new().await;
    case.execute(Order::Run).await.unwrap();
    Journal::read(&case.plan.with_extension("journal")).unwrap().len() as u64
}

async fn killed_after(records: u64) -> Case {
    let case = Case::new().await;
    let killed = case.execute_with(Order::Run, Some(records), &Confirmed, false).await;
    assert!(matches!(killed, Err(Error::Killed)), "after {records}: {killed:?}");
    case
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_any_record_and_again_a_few_later_it_is_taken_up() {
    for after in (0..records().await).step_by(3) {
        let case = killed_after(after).await;
        loop {
            match case.execute_with(Order::Resume, Some(4), &Confirmed, false).await {
                Err(Error::Killed) => {}
                Ok(Ended::Finished) => break,
                other => panic!("after {after}: {other:?}"),
            }
        }
        case.assert_migrated();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_any_record_it_is_taken_back_or_the_way_back_is_closed() {
    let (mut back, mut closed, mut nothing) = (0, 0, 0);
    for after in 1..records().await {
        let case = killed_after(after).await;
        match case.execute(Order::Abort).await {
            Ok(Ended::Aborted { window: 1, .. }) => {
                case.assert_as_it_was();
                back += 1;
            }
            Ok(Ended::Aborted { window: 2, .. }) => {
                assert!(case.is_up());
                assert_eq!(case.attached("DATABASE"), "pgconvoy-t1-new");
                assert!(!case.databases.is_fenced("pgconvoy-t1-new"));
                back += 1;
            }
            Err(error) if error.to_string().contains("point of no return") => closed += 1,
            Err(error) if error.to_string().contains("nothing to take back") => {
                case.assert_as_it_was();
                nothing += 1;
            }
            other => panic!("after {after}: {other:?}"),
        }
        // Whatever it was, it can be taken up.
        assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished, "after {after}");
        case.assert_migrated();
    }
    assert!(back > 20 && closed > 5 && nothing > 5, "{back} {closed} {nothing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_is_taken_back_it_goes_on_with_that() {
    let aborted = {
        let case = Case::new().await;
        case.databases.fail_copies(1);
        case.execute(Order::Run).await.unwrap();
        Journal::read(&case.plan.with_extension("journal")).unwrap().len() as u64
    };
    for after in 1..aborted {
        let case = Case::new().await;
        case.databases.fail_copies(1);
        let killed = case.execute_with(Order::Run, Some(after), &Confirmed, false).await;
        assert!(matches!(killed, Err(Error::Killed)), "after {after}: {killed:?}");
        match case.execute(Order::Resume).await.unwrap() {
            // It was being taken back, or the copy failed only now.
            Ended::Aborted { .. } => case.assert_as_it_was(),
            // The copy had failed before it was written down that it did: it was repeated.
            Ended::Finished => {
                case.assert_migrated();
                continue;
            }
            Ended::Held { .. } => panic!("after {after}"),
        }
        assert_eq!(case.addons()[0], ORIGINAL);
        assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished, "after {after}");
        case.assert_migrated();
    }
}
