//! `GET /discovery/resources`: the catalogue of what was paid for through this keeper, as clients of x402's `bazaar` read it.

use alloy::primitives::Address;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, ApiResult, ErrorBody};
use crate::clock::iso;
use crate::ctx::SharedCtx;
use crate::error::{Code, Error};
use crate::store::resources::{self, Filter, Listed};
use crate::x402::extensions::bazaar;

/// Resources in one answer at most.
const MOST: i64 = 100;

/// Which resources. Other members are ignored, as clients of later versions may send some.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct Asked {
    /// http or mcp
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Account that is paid.
    pub pay_to: Option<String>,
    pub scheme: Option<String>,
    /// eip155:…
    pub network: Option<String>,
    /// Name of an extension that the resource must declare; all declare `bazaar` and no other is kept.
    pub extensions: Option<String>,
    /// At most 100, which is the default.
    pub limit: Option<i64>,
    /// Resources to skip.
    pub offset: Option<i64>,
}

/// A page of the catalogue.
#[derive(Debug, Serialize, ToSchema)]
pub struct Catalogue {
    #[serde(rename = "x402Version")]
    pub x402_version: u8,
    /// Paid for last first: {resource, type, x402Version, accepts, lastUpdated, description?, mimeType?, serviceName?, tags?,
    /// iconUrl?, extensions: {bazaar: {info, schema, routeTemplate?}}}
    #[schema(value_type = Vec<Object>)]
    pub items: Vec<Value>,
    pub pagination: Pagination,
}

/// Where the page is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Pagination {
    pub limit: i64,
    pub offset: i64,
    /// On all pages.
    pub total: i64,
}

/// Resources whose servers declared the extension `bazaar` in a payment that was settled here. Nothing is looked up: that a
/// resource is listed says that somebody was paid for it, not that it is good.
#[utoipa::path(get, path = "/discovery/resources", tag = "x402", params(Asked),
    responses((status = 200, body = Catalogue), (status = "4XX", body = ErrorBody)))]
pub async fn resources(
    State(ctx): State<SharedCtx>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> ApiResult<Json<Catalogue>> {
    let malformed = |text: String| ApiError::new(Code::Malformed, text);
    let Query(asked) = asked.map_err(|error| malformed(error.body_text()))?;
    // PostgreSQL takes no text with a zero in it.
    let texts = [&asked.kind, &asked.scheme, &asked.network];
    if texts.into_iter().flatten().any(|text| text.contains('\0')) {
        return Err(malformed("a filter must be plain text".to_owned()));
    }
    let pay_to = asked.pay_to.filter(|text| !text.is_empty()).map(|text| text.parse::<Address>()).transpose();
    let filter = Filter {
        kind: asked.kind,
        scheme: asked.scheme,
        network: asked.network,
        pay_to: pay_to.map_err(|_| malformed("payTo must be an address".to_owned()))?,
    };
    let limit = asked.limit.unwrap_or(MOST).clamp(1, MOST);
    let offset = asked.offset.unwrap_or(0).clamp(0, resources::MOST);
    let known = asked.extensions.is_none_or(|name| name.is_empty() || name == bazaar::NAME);
    let (found, total) = if known {
        let found = resources::page(ctx.store.read(), &filter, limit, offset).await?;
        (found, resources::count(ctx.store.read(), &filter).await?)
    } else {
        (Vec::new(), 0)
    };
    let items = found.into_iter().map(item).collect::<Result<_, _>>()?;
    Ok(Json(Catalogue { x402_version: 2, items, pagination: Pagination { limit, offset, total } }))
}

fn item(listed: Listed) -> Result<Value, Error> {
    let corrupt = |error: serde_json::Error| Error::Corrupt { table: "resources", what: error.to_string() };
    let mut item: Map<String, Value> = serde_json::from_str(&listed.details).map_err(corrupt)?;
    let accepts: Vec<Value> =
        listed.accepts.iter().map(|terms| serde_json::from_str(terms)).collect::<Result<_, _>>().map_err(corrupt)?;
    item.insert("resource".to_owned(), json!(listed.url));
    item.insert("type".to_owned(), json!(listed.kind));
    item.insert("accepts".to_owned(), json!(accepts));
    item.insert("lastUpdated".to_owned(), json!(iso(listed.updated_ms)));
    Ok(Value::Object(item))
}
