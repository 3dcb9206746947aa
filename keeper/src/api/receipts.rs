//! `GET /receipts`: receipt files, and lists of them as JSON or CSV.

use std::fmt::Write as _;

use alloy::primitives::{Address, B256};
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::{Reader, reader};
use super::error::{ApiError, ApiResult, ErrorBody};
use super::payments::{ListedPayments, PaymentLine, to_csv as payments_csv};
use crate::ctx::SharedCtx;
use crate::error::Code;
use crate::receipt::payment::{self, PaymentFile};
use crate::receipt::{ReceiptFile, assemble};
use crate::store::evidence::{self, Filter, Line};
use crate::store::payments;

/// Receipts in one answer at most.
const MAX_LINES: i64 = 1_000;

/// A member of the path, or why it is no text.
pub type PathText = Result<Path<String>, PathRejection>;

/// The member as text.
pub fn text(path: PathText) -> ApiResult<String> {
    let Path(text) = path.map_err(|error| ApiError::new(Code::Malformed, error.body_text()))?;
    Ok(text)
}

/// Reads 32 bytes of a path.
pub fn id(text: &str) -> ApiResult<B256> {
    text.parse().map_err(|_| ApiError::new(Code::Malformed, "the id in the path must be 32 bytes as 0x-hexadecimal"))
}

/// A receipt file.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum AnyReceipt {
    /// Of an order's inference.
    Order(Box<ReceiptFile>),
    /// Of an x402 payment.
    Payment(Box<PaymentFile>),
}

/// One receipt file, as far as its settlement has come: of an inference by its settlement id, of an x402 payment by its payment id.
#[utoipa::path(get, path = "/receipts/{id}", tag = "receipts",
    params(("id" = String, Path, description = "settlement id or payment id, 0x-hexadecimal")),
    responses((status = 200, body = AnyReceipt), (status = "4XX", body = ErrorBody)))]
pub async fn one(State(ctx): State<SharedCtx>, path: PathText, headers: HeaderMap) -> ApiResult<Json<AnyReceipt>> {
    let reader = reader(&ctx, &headers).await?;
    let id = id(&text(path)?)?;
    // Another's receipt is not told apart from none.
    let missing = || ApiError::new(Code::NotFound, "no receipt of yours has this id");
    if let Some(file) = assemble::file(&ctx, id).await? {
        let file = Some(file).filter(|file| reader.may_read(file.receipt.payer)).ok_or_else(missing)?;
        return Ok(Json(AnyReceipt::Order(Box::new(file))));
    }
    let own = |file: &PaymentFile| {
        let payment = &file.payment;
        reader.may_read(payment.receiver) || payment.payer.is_some_and(|payer| reader.may_read(payer))
    };
    let file = payment::file(&ctx, id).await?.filter(own).ok_or_else(missing)?;
    Ok(Json(AnyReceipt::Payment(Box::new(file))))
}

/// Which receipts.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    #[param(value_type = Option<String>)]
    pub payer: Option<Address>,
    #[param(value_type = Option<String>)]
    pub node: Option<B256>,
    /// Unix seconds, included.
    pub from: Option<u64>,
    /// Unix seconds, excluded.
    pub to: Option<u64>,
    /// order (when absent), or x402 for settled x402 payments, whose times are those of the settlement.
    pub rail: Option<String>,
    /// json or csv
    pub format: Option<String>,
    /// The last answer's `next`.
    pub after: Option<String>,
    /// At most 1,000.
    pub limit: Option<i64>,
}

/// A list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Listed {
    pub receipts: Vec<LineView>,
    /// Value of `after` for the next page; null on the last.
    pub next: Option<String>,
}

/// One receipt in a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LineView {
    #[schema(value_type = String)]
    pub settlement_id: B256,
    #[schema(value_type = String)]
    pub order_id: B256,
    #[schema(value_type = String)]
    pub payer: Address,
    #[schema(value_type = String)]
    pub token: Address,
    #[schema(value_type = String)]
    pub node_id: B256,
    /// Token units, decimal text.
    pub amount: String,
    /// matched, batched, settled, skipped
    pub state: String,
    /// batch or verified
    pub path: String,
    pub order_state: String,
    /// private, due, submitted, recorded, refused
    pub record_state: String,
    pub batch_id: Option<i64>,
    #[schema(value_type = Option<String>)]
    pub transaction: Option<B256>,
    pub created_ms: i64,
}

impl From<Line> for LineView {
    fn from(line: Line) -> Self {
        Self {
            settlement_id: line.settlement_id,
            order_id: line.order_id,
            payer: line.payer,
            token: line.token,
            node_id: line.node_id,
            amount: line.amount.to_string(),
            state: line.state,
            path: line.path,
            order_state: line.order_state,
            record_state: line.record_state,
            batch_id: line.batch_id,
            transaction: line.transaction,
            created_ms: line.created_ms,
        }
    }
}

/// Receipts by payer, node and time, oldest first, as JSON or CSV.
#[utoipa::path(get, path = "/receipts", tag = "receipts", params(ListQuery),
    responses((status = 200, body = Listed, description = "With `rail=x402` settled payments (ListedPayments). CSV with `format=csv`; its next page is in the header `x-next`"),
        (status = "4XX", body = ErrorBody)))]
pub async fn list(
    State(ctx): State<SharedCtx>,
    query: Result<Query<ListQuery>, QueryRejection>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let malformed = |text: String| ApiError::new(Code::Malformed, text);
    let Query(query) = query.map_err(|error| malformed(error.body_text()))?;
    let reader = reader(&ctx, &headers).await?;
    let payer = match (reader, query.payer) {
        (Reader::All, payer) => payer,
        (Reader::Payer(own), None) => Some(own),
        (reader, Some(payer)) => {
            reader.require(payer)?;
            Some(payer)
        }
    };
    let csv = match query.format.as_deref() {
        None | Some("json") => false,
        Some("csv") => true,
        Some(_) => return Err(malformed("format must be json or csv".to_owned())),
    };
    let after = query.after.as_deref().map(|text| {
        let (ms, id) = text.split_once('-')?;
        Some((ms.parse().ok()?, id.parse().ok()?))
    });
    let after = match after {
        Some(None) => return Err(malformed("after must be the last answer's next".to_owned())),
        Some(after) => after,
        None => None,
    };
    let ms = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000);
    let limit = query.limit.unwrap_or(MAX_LINES).clamp(1, MAX_LINES);
    match query.rail.as_deref() {
        None | Some("order") => {}
        Some("x402") if query.node.is_some() => {
            return Err(malformed("x402 payments are not listed by node".to_owned()));
        }
        Some("x402") => {
            let filter = payments::Filter {
                payer,
                from_ms: query.from.map_or(0, ms),
                to_ms: query.to.map_or(i64::MAX, ms),
                after,
                limit,
            };
            let found = payments::settled(ctx.store.read(), &filter).await?;
            let full = i64::try_from(found.len()).is_ok_and(|n| n == limit);
            let next = found.last().filter(|_| full);
            let next =
                next.map(|payment| format!("{}-{}", payment.settled_ms.unwrap_or_default(), payment.new.payment_id));
            let receipts: Vec<PaymentLine> = found.into_iter().map(PaymentLine::from).collect();
            let csv = csv.then(|| payments_csv(&receipts));
            return Ok(respond(csv, ListedPayments { receipts, next: next.clone() }, next));
        }
        Some(_) => return Err(malformed("rail must be order or x402".to_owned())),
    }
    let filter = Filter {
        payer,
        node: query.node,
        from_ms: query.from.map_or(0, ms),
        to_ms: query.to.map_or(i64::MAX, ms),
        after,
        limit,
    };
    let lines = evidence::list(&ctx.store, &filter).await?;
    let full = i64::try_from(lines.len()).is_ok_and(|n| n == limit);
    let next = lines.last().filter(|_| full).map(|line| format!("{}-{}", line.created_ms, line.settlement_id));
    let receipts: Vec<LineView> = lines.into_iter().map(LineView::from).collect();
    let csv = csv.then(|| to_csv(&receipts));
    Ok(respond(csv, Listed { receipts, next: next.clone() }, next))
}

/// A list as CSV, whose next page is named in a header, or as JSON.
fn respond<T: Serialize>(csv: Option<String>, list: T, next: Option<String>) -> Response {
    let Some(csv) = csv else { return Json(list).into_response() };
    let mut response = ([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], csv).into_response();
    if let Some(next) = next.and_then(|next| next.parse().ok()) {
        response.headers_mut().insert("x-next", next);
    }
    response
}

/// No value holds a comma, a quote or a line break: hexadecimal, numbers and state names only.
fn to_csv(receipts: &[LineView]) -> String {
    let mut text = "settlement_id,order_id,payer,token,node_id,amount,state,path,order_state,record_state,batch_id,\
                    transaction,created_ms\n"
        .to_owned();
    for line in receipts {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{},{},{},{},{},{},{},{},{},{},{},{},{}",
            line.settlement_id,
            line.order_id,
            line.payer,
            line.token,
            line.node_id,
            line.amount,
            line.state,
            line.path,
            line.order_state,
            line.record_state,
            line.batch_id.map(|id| id.to_string()).unwrap_or_default(),
            line.transaction.map(|hash| hash.to_string()).unwrap_or_default(),
            line.created_ms
        );
    }
    text
}
